import CRdkafka
import Changes
import Core
import Foundation
import Service
import Testing
import Transactions

@testable import Kafka

/// What a takeover meets, on a real broker, by name.
@Suite(.serialized, .enabled(if: broker != nil, "skipped: Kafka (set TIDELINE_TEST_KAFKA=host:port to run it)"))
struct TakeoverTests {
    /// A record of a worker that died in the middle of a transaction.
    private func leaveOpen(_ world: KafkaWorld, _ name: String) throws -> (TransactionalProducer, [UInt8]) {
        // The broker would abort it after 10 s, in the middle of what a slow machine does here.
        let settings = world.configuration.transactional(id: name).merging(["transaction.timeout.ms": "60000"]) { $1 }
        let producer = try TransactionalProducer(settings, hooks: ClientHooks())
        let junk = Array("of the dead".utf8)
        try producer.initialize(milliseconds: 30_000)
        try producer.begin()
        try junk.withUnsafeBytes {
            try producer.produce(
                world.configuration.changes, 1, key: UnsafeRawBufferPointer(start: nil, count: 0), value: $0)
        }
        // Time for the record to reach the broker: a reader of committed records stands before it.
        Thread.sleep(forTimeInterval: 0.3)
        return (producer, junk)
    }

    @Test(arguments: [0, 1])
    func aDeadOwnersOpenTransactionOnEitherIdIsAborted(_ id: Int) throws {
        let world = try KafkaWorld()
        let first = try world.core(slot: 0)
        try first.append((0..<60).map { world.event($0, terminal: 1) }, world: world)
        try first.run(until: { first.figures.current.scored == 60 })
        let (dead, junk) = try leaveOpen(world, world.configuration.transactionalIds(partition: 1)[id])
        let heir = try world.core(slot: 0)
        try heir.append((60..<120).map { world.event($0, terminal: 1) }, world: world)
        try heir.run(until: { heir.figures.current.scored == 60 }, seconds: 30)
        // The dead one wakes up: its commit is refused.
        #expect { try dead.commit(milliseconds: 5000) } throws: { ($0 as? KafkaError)?.isFenced == true }
        withExtendedLifetime(junk) {}
        let rows = try world.committed()
        #expect(rows.count == 120 && rows.values.allSatisfy { $0.count == 1 })
    }

    /// What is open in the changelog and nobody of ours holds hides what is committed behind it. A takeover ends what may be
    /// open under its own ids, by a transaction of each that holds no batch, and goes on when nothing is open any more.
    @Test func whatStandsOpenIsEndedOrWaitedFor() throws {
        let world = try KafkaWorld()
        let first = try world.core(slot: 0)
        try first.append((0..<60).map { world.event($0, terminal: 1) }, world: world)
        try first.run(until: { first.figures.current.scored == 60 })
        let (stranger, junk) = try leaveOpen(world, "stranger-\(world.configuration.pipeline)")
        let all = try KafkaClient(
            .consumer,
            world.configuration.reading("test", fetchWait: 10).merging(["isolation.level": "read_uncommitted"]) { $1 })
        let before = try all.watermarks(world.configuration.changes, 1).high
        let heir = try world.core(slot: 0)
        try heir.append((60..<120).map { world.event($0, terminal: 1) }, world: world)
        // A record and a marker of each id.
        try heir.run(
            until: {
                let high = try all.watermarks(world.configuration.changes, 1).high
                return heir.figures.current.scored == 40 && high >= before + 4
            }, seconds: 30)
        #expect(heir.figures.current.scored == 40, "the partition that is open waits, the others go on")
        try stranger.abort(milliseconds: 30_000)
        try heir.run(until: { heir.figures.current.scored == 60 }, seconds: 30)
        withExtendedLifetime(junk) {}
        let rows = try world.committed()
        #expect(rows.count == 120 && rows.values.allSatisfy { $0.count == 1 })
        let client = try KafkaClient(.consumer, world.configuration.reading("test", fetchWait: 10))
        var barriers = 0
        let (low, high) = try client.watermarks(world.configuration.changes, 1)
        try client.records(world.configuration.changes, 1, from: low, to: high) { record in
            if String(decoding: record.key, as: UTF8.self) == "barrier" { barriers += 1 }
            return true
        }
        #expect(barriers >= 2 && barriers % 2 == 0, "one of each id, each time it was tried: \(barriers)")
    }

    /// A worker stands still between the two ids of its takeover; another takes the partition and commits; then the first
    /// goes on. Its first id is fenced, so it commits nothing; the other finds its second id gone, and takes the partition again.
    @Test func aZombieThatInitialisesItsSecondIdLateCommitsNothing() throws {
        let world = try KafkaWorld()
        let ids = world.configuration.transactionalIds(partition: 1)
        let zombie = try ids.map {
            try TransactionalProducer(world.configuration.transactional(id: $0), hooks: ClientHooks())
        }
        try zombie[0].initialize(milliseconds: 30_000)
        let owner = try world.core(slot: 0)
        try owner.append((0..<90).map { world.event($0, terminal: 1) }, world: world)
        try owner.run(until: { owner.figures.current.scored == 90 })
        try zombie[1].initialize(milliseconds: 30_000)
        try zombie[0].begin()
        let junk = Array("of a zombie".utf8)
        #expect {
            try junk.withUnsafeBytes {
                try zombie[0].produce(
                    world.configuration.changes, 1, key: UnsafeRawBufferPointer(start: nil, count: 0), value: $0)
            }
            try zombie[0].commit(milliseconds: 10_000)
        } throws: {
            ($0 as? KafkaError)?.isFenced == true
        }
        for start in stride(from: 90, to: 360, by: 30) {
            try owner.append((start..<start + 30).map { world.event($0, terminal: 1) }, world: world)
            try owner.run(until: { owner.figures.current.scored == UInt64(start + 30) })
        }
        #expect(owner.outcomes.count { if case .assigned = $0 { true } else { false } } == world.partitions + 1)
        let rows = try world.committed()
        #expect(rows.count == 360 && rows.values.allSatisfy { $0.count == 1 })
    }

    /// Events that were never scored are gone: their partition stands still and says so, the others go on, until someone
    /// accepts the gap.
    @Test func aPositionThatRetentionHasDeletedHaltsItsPartitionAlone() throws {
        let world = try KafkaWorld()
        do {
            let core = try world.core(slot: 0)
            try core.append((0..<90).map { world.event($0, terminal: 1) }, world: world)
            try core.run(until: { core.figures.current.scored == 90 })
        }
        let upstream = try KafkaIngest(world.configuration, log: world.log)
        try world.send((90..<180).map { world.event($0, terminal: 1) }, by: upstream.append)
        try deleteInput(world, partition: 1, before: 45)
        do {
            let core = try world.core(slot: 0)
            try core.run(until: { core.figures.current.scored == 60 })
            for _ in 0..<50 { _ = try core.loop.step(waitMicroseconds: 2000) }
            #expect(core.figures.current.scored == 60)
            #expect(core.log.halted.keys.sorted() == [1])
            #expect(core.log.halted[1]?.contains("offsets 30 to 44") == true)
            #expect(core.log.halted[1]?.contains("--accept-gap") == true)
        }
        let core = try world.core(place: .slot(0), acceptsGap: true)
        try core.run(until: { core.figures.current.scored == 15 })
        #expect(core.log.halted.isEmpty)
        #expect(try world.committed().count == 90 + 60 + 15)
    }

    /// A client that a broker has made useless is replaced; events go on coming in.
    @Test func anIngestWhoseClientFailsForGoodGoesOn() throws {
        let world = try KafkaWorld()
        let ingest = try KafkaIngest(world.configuration, log: world.log)
        try world.send((0..<30).map { world.event($0, terminal: 1) }, by: ingest.append)
        ingest.failForGood()
        try world.send((30..<60).map { world.event($0, terminal: 1) }, by: ingest.append)
        let core = try world.core(slot: 0)
        try core.run(until: { core.figures.current.scored == 60 })
    }

    private func deleteInput(_ world: KafkaWorld, partition: Int, before offset: Int64) throws {
        let client = try KafkaClient(.producer, world.configuration.client("deletes", [:]))
        let list = rd_kafka_topic_partition_list_new(1)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        rd_kafka_topic_partition_list_add(list, world.configuration.input, Int32(partition)).pointee.offset = offset
        let queue = rd_kafka_queue_new(client.handle)
        defer { rd_kafka_queue_destroy(queue) }
        var requests: [OpaquePointer?] = [rd_kafka_DeleteRecords_new(list)]
        defer { rd_kafka_DeleteRecords_destroy(requests[0]) }
        rd_kafka_DeleteRecords(client.handle, &requests, 1, nil, queue)
        let event = try #require(rd_kafka_queue_poll(queue, 30_000))
        defer { rd_kafka_event_destroy(event) }
        #expect(rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR_NO_ERROR)
    }

    /// The group's offsets are for lag tools: set to the beginning, or beyond what is scored, they change nothing.
    @Test(arguments: [0, 55])
    func aResetOfTheGroupsOffsetHasNoEffect(_ offset: Int64) throws {
        let world = try KafkaWorld()
        let core = try world.core(slot: 0)
        try core.append((0..<90).map { world.event($0, terminal: 1) }, world: world)
        try core.run(until: { core.figures.current.scored == 90 })
        core.log.close()
        let upstream = try KafkaIngest(world.configuration, log: world.log)
        try world.send((90..<180).map { world.event($0, terminal: 1) }, by: upstream.append)
        let operatorsTool = try KafkaClient(
            .consumer, world.configuration.client("tool", ["group.id": world.configuration.group]))
        let list = rd_kafka_topic_partition_list_new(3)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        for partition in 0..<3 {
            rd_kafka_topic_partition_list_add(list, world.configuration.input, Int32(partition)).pointee.offset = offset
        }
        var code = RD_KAFKA_RESP_ERR__FAIL
        // The broker refuses while the group still has a member.
        for _ in 0..<100 where code != RD_KAFKA_RESP_ERR_NO_ERROR {
            code = rd_kafka_commit(operatorsTool.handle, list, 0)
            if code != RD_KAFKA_RESP_ERR_NO_ERROR { Thread.sleep(forTimeInterval: 0.1) }
        }
        #expect(code == RD_KAFKA_RESP_ERR_NO_ERROR)
        let next = try world.core(slot: 0)
        try next.run(until: { next.figures.current.scored == 90 })
        #expect(next.figures.current.duplicates == 0)
        let rows = try world.committed()
        #expect(rows.count == 180 && rows.values.allSatisfy { $0.count == 1 })
    }
}
