import CRdkafka
import Changes
import Core
import Foundation
import Service
import Testing
import Transactions

@testable import Kafka

/// librdkafka's own broker in this process: it answers with the errors that it is given, and proves nothing else.
@safe private final class MockBroker {
    let client: KafkaClient
    let address: String
    private let cluster: OpaquePointer

    init() throws {
        client = try KafkaClient(.producer, ["test.mock.num.brokers": "1", "bootstrap.servers": "ignored"])
        cluster = try #require(unsafe rd_kafka_handle_mock_cluster(client.handle))
        address = unsafe String(cString: rd_kafka_mock_cluster_bootstraps(cluster))
        for topic in ["changes", "scores", "dead-letters"] {
            _ = unsafe rd_kafka_mock_topic_create(cluster, "tideline.mock.\(topic)", 1, 1)
        }
    }

    /// The next requests of a kind are answered with these.
    func answer(_ request: Int16, _ errors: [rd_kafka_resp_err_t]) {
        var errors = errors
        unsafe rd_kafka_mock_push_request_errors_array(cluster, request, errors.count, &errors)
    }

    func forget(_ request: Int16) { unsafe rd_kafka_mock_clear_request_errors(cluster, request) }
}

/// The commit protocol over real clients and a broker that errs; what the changelog holds is what the test says.
///
/// `@unchecked Sendable`: one thread of a test uses it.
private final class ErringCluster: Cluster, @unchecked Sendable {
    final class NoInput: InputReader {
        var waiting: Int { 0 }
        var queued: Int { 0 }
        func fill(_ batch: EventBatch) throws {}
    }

    final class NoGroup: GroupMember {
        func poll() throws -> GroupAssignment.Change? { nil }
        func isOwned(_ partition: Int) -> Bool { true }
        func lost(_ partition: Int) {}
        func reported(_ partition: Int) throws -> UInt64? { nil }
        func report(_ positions: [Int: UInt64]) {}
        func leave() {}
    }

    let configuration: KafkaConfiguration
    var lineage: Lineage { Lineage(high: 1, low: 2) }
    var partitions: Int { 1 }
    /// What the changelog ends with once nothing is open.
    var last: (seq: UInt64, changes: [UInt8]) = (0, [])
    var takeovers = 0

    init(_ broker: MockBroker) {
        configuration = KafkaConfiguration(
            bootstrapServers: broker.address, pipeline: "mock",
            properties: ["socket.timeout.ms": "1000", "message.timeout.ms": "2000"])
    }

    func makeProducer(of partition: Int, id: Int) throws -> PartitionProducer {
        if id == 0 { takeovers += 1 }
        return try PartitionProducer(configuration, partition: partition, id: id, log: Log(role: "t", minimum: .error))
    }
    func drop(_ producer: PartitionProducer) {}
    func retire(_ owner: any Sendable) {}
    func beside(_ body: @escaping @Sendable () -> Void) { body() }
    func join(slot: Int) throws -> NoGroup { NoGroup() }
    func isTaken(slot: Int) -> Bool { false }
    func inputBounds(of partition: Int) throws -> (low: UInt64, high: UInt64) { (0, 100) }
    func readInput(of partition: Int, from offset: UInt64) throws -> NoInput { NoInput() }
    func wait(microseconds: Int64) {}
    func rest(microseconds: Int64) {}
    func wake() {}
    func isSettled(_ partition: Int) throws -> Bool { true }
    func changelogEnd(of partition: Int) throws -> UInt64 { last.seq }
    func changelog(
        of partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws { if last.seq > seq { _ = try last.changes.withUnsafeBytes { try visit(last.seq, $0) } } }
    func follow(
        partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws {}
}

private enum Request {
    static let produce: Int16 = 0
    static let findCoordinator: Int16 = 10
    static let initProducerId: Int16 = 22
    static let addPartitions: Int16 = 24
    static let endTransaction: Int16 = 26
}

/// Each class of error that a transaction can meet, and what is made of it: docs/kafka.md has the table.
///
/// This broker fences nobody and keeps no transactions: what is shown is the reaction. That it is the right one is shown
/// by the specification, the simulation and the real broker.
@Suite(.serialized) struct ErrorMatrixTests {
    struct Row: CustomTestStringConvertible {
        var request: Int16
        var error: rd_kafka_resp_err_t
        var outcome: CommitOutcome
        /// Both ids are initialised again, and the changelog asked, before anything is said.
        var asksTheChangelog = false

        var testDescription: String {
            unsafe "\(String(cString: rd_kafka_err2name(error))) to request \(request): \(outcome)"
        }
    }

    /// What passes by itself is waited for inside.
    static let passing: [Row] = [
        Row(request: Request.addPartitions, error: RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, outcome: .committed),
        Row(request: Request.addPartitions, error: RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS, outcome: .committed),
        Row(request: Request.addPartitions, error: RD_KAFKA_RESP_ERR_NOT_COORDINATOR, outcome: .committed),
        Row(request: Request.addPartitions, error: RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, outcome: .committed),
        Row(request: Request.produce, error: RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, outcome: .committed),
        Row(request: Request.produce, error: RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, outcome: .committed),
        Row(
            request: Request.endTransaction, error: RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, outcome: .committed),
        Row(request: Request.endTransaction, error: RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE, outcome: .committed),
        Row(request: Request.endTransaction, error: RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS, outcome: .committed),
    ]
    /// The transaction is aborted, the brokers say so, and the same events are taken again.
    static let aborting: [Row] = [
        Row(request: Request.addPartitions, error: RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, outcome: .aborted),
        Row(request: Request.addPartitions, error: RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING, outcome: .aborted),
        Row(request: Request.produce, error: RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, outcome: .aborted),
        Row(request: Request.produce, error: RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, outcome: .aborted),
        Row(request: Request.produce, error: RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, outcome: .aborted),
        Row(request: Request.produce, error: RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID, outcome: .aborted),
        Row(request: Request.endTransaction, error: RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, outcome: .aborted),
        Row(request: Request.endTransaction, error: RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING, outcome: .aborted),
        Row(request: Request.endTransaction, error: RD_KAFKA_RESP_ERR_UNKNOWN, outcome: .aborted),
    ]
    /// The client is of no use any more, and the outcome unknown: the changelog tells.
    static let uncertain: [Row] = [
        Row(
            request: Request.addPartitions, error: RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            outcome: .aborted, asksTheChangelog: true),
        Row(
            request: Request.addPartitions, error: RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, outcome: .aborted,
            asksTheChangelog: true),
        Row(
            request: Request.produce, error: RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, outcome: .aborted,
            asksTheChangelog: true),
        Row(
            request: Request.endTransaction, error: RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, outcome: .aborted,
            asksTheChangelog: true),
        Row(
            request: Request.endTransaction, error: RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            outcome: .aborted, asksTheChangelog: true),
    ]
    /// Another worker has the ids: the partition is given up.
    static let fenced: [Row] = [
        Row(request: Request.addPartitions, error: RD_KAFKA_RESP_ERR_PRODUCER_FENCED, outcome: .lost),
        Row(request: Request.addPartitions, error: RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, outcome: .lost),
        Row(request: Request.produce, error: RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, outcome: .lost),
        Row(request: Request.endTransaction, error: RD_KAFKA_RESP_ERR_PRODUCER_FENCED, outcome: .lost),
        Row(request: Request.endTransaction, error: RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, outcome: .lost),
    ]

    private let broker: MockBroker
    private let cluster: ErringCluster
    private let log: TransactionalLog<ErringCluster>

    init() throws {
        broker = try MockBroker()
        cluster = ErringCluster(broker)
        log = try TransactionalLog(cluster, slot: 0, log: Log(role: "test", minimum: .error))
    }

    private func commit(_ seq: UInt64, _ text: String = "ours") throws -> CommitOutcome {
        try Array(text.utf8).withUnsafeBytes { bytes in
            let none = UnsafeRawBufferPointer(start: nil, count: 0)
            return try log.commit(
                StagedCommit(
                    partition: 0, seq: seq, endOffset: seq, changes: bytes, scores: none,
                    scoreEnds: UnsafeBufferPointer(start: nil, count: 0), entities: none, deadLetters: none))
        }
    }

    @Test(arguments: passing + aborting + uncertain + fenced)
    func whatACommitMakesOfAnError(_ row: Row) throws {
        try log.takeOver(partition: 0)
        broker.answer(row.request, [row.error])
        #expect(try commit(1) == row.outcome)
        #expect(cluster.takeovers == (row.asksTheChangelog ? 2 : 1))
        broker.forget(row.request)
        // What was lost is nobody's to commit; all else goes on, where a client has to find its count again at the third try.
        var again = CommitOutcome.aborted
        for _ in 0..<3 where again == .aborted { again = try commit(1) }
        #expect(again == (row.outcome == .lost ? .lost : .committed))
    }

    /// The same error with another changelog: the batch stands, or another worker's does.
    @Test(arguments: [("ours", CommitOutcome.committed), ("theirs", .lost)])
    func theChangelogSaysWhatAnUncertainCommitCameTo(_ text: String, _ outcome: CommitOutcome) throws {
        try log.takeOver(partition: 0)
        broker.answer(Request.endTransaction, [RD_KAFKA_RESP_ERR_INVALID_TXN_STATE])
        cluster.last = (1, Array(text.utf8))
        #expect(try commit(1) == outcome)
    }

    /// A takeover waits for what passes, with new clients, and ends with the brokers' words where it does not.
    @Test func whatATakeoverMakesOfAnError() throws {
        for error in [RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS] {
            let before = cluster.takeovers
            broker.answer(Request.initProducerId, [error])
            try log.takeOver(partition: 0)
            #expect(cluster.takeovers == before + 2)
        }
        broker.answer(Request.initProducerId, [RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED])
        #expect { try log.takeOver(partition: 0) } throws: { "\($0)".contains("Transactional Id authorization failed") }
    }
}
