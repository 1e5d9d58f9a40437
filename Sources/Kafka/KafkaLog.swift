import Changes
import Core
import Service
import Storage
import Transactions

/// The log in Kafka: events from an input topic, and one transaction a batch that carries scores, changes, dead letters
/// and, in the change batch, the position. The protocol is `TransactionalLog`'s; here it meets librdkafka.
///
/// `@unchecked Sendable`: `onCommit` is set before the loop runs; the parts guard themselves.
package final class KafkaLog: IngestLog, @unchecked Sendable {
    package var reader: any LogReader { cluster.stored }
    package var lineage: Lineage { cluster.lineage }
    package var partitions: Int { cluster.partitions }
    private let cluster: KafkaCluster
    private let transactions: TransactionalLog<KafkaCluster>
    private let ingest: KafkaIngest

    package typealias Beginning = Transactions.Beginning

    /// Joins the group in a slot. Fails where the topics are not there.
    package init(
        _ configuration: KafkaConfiguration, slot: Int, begin: Beginning = .earliest, acceptsGap: Bool = false,
        log: Log,
        clock: any WallClock = SystemClock()
    ) throws {
        cluster = try KafkaCluster(configuration, slot: slot, log: log)
        ingest = try KafkaIngest(configuration, log: log)
        var settings = TransactionalLog<KafkaCluster>.Configuration()
        settings.commitIntervalMicroseconds = configuration.commitIntervalMicroseconds
        settings.begin = begin
        settings.acceptsGap = acceptsGap
        transactions = try TransactionalLog(cluster, settings, log: log, clock: clock)
    }

    package var onCommit: (@Sendable (_ partition: Int, _ seq: UInt64) -> Void)? {
        get { transactions.onCommit }
        set { transactions.onCommit = newValue }
    }

    package func next(into batch: EventBatch, waitMicroseconds: Int) throws -> LogStep {
        try transactions.next(into: batch, waitMicroseconds: waitMicroseconds)
    }

    package func seek(partition: Int, to offset: UInt64) throws {
        try transactions.seek(partition: partition, to: offset)
    }

    package func takeOver(partition: Int) throws { try transactions.takeOver(partition: partition) }

    package func commit(_ commit: StagedCommit) throws -> CommitOutcome { try transactions.commit(commit) }

    package func changelog(
        of partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ encoded: UnsafeRawBufferPointer) throws -> Bool
    ) throws { try unsafe transactions.changelog(of: partition, after: seq, visit) }

    package func follow(
        partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws { try unsafe transactions.follow(partition: partition, after: seq, visit) }

    package func changelogEnd(of partition: Int) -> UInt64? { transactions.changelogEnd(of: partition) }

    package func vouchedEnd(of partition: Int) -> UInt64? { transactions.vouchedEnd(of: partition) }

    package var memory: StoreMemory? { nil }

    package func close() { transactions.close() }

    package func append(
        _ events: borrowing AppendRequest,
        acknowledged: @escaping @Sendable (Result<[Int: UInt64], any Error>) -> Void
    ) throws { try ingest.append(events, acknowledged: acknowledged) }

    package var backlog: (events: UInt64, oldestAppendTime: Int64) { (UInt64(transactions.waiting), 0) }
}
