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
    private let log: Log

    package typealias Beginning = Transactions.Beginning

    /// A worker's place among the workers.
    package enum Place: Sendable {
        /// This one, whoever has it.
        case slot(Int)
        /// One of so many in which nobody works, of any number where there is no limit; until there is one it stands by, and
        /// follows the log.
        case free(of: Int?)
    }

    /// Joins the group, or stands by. Fails where the topics are not there.
    package init(
        _ configuration: KafkaConfiguration, place: Place, begin: Beginning = .earliest, acceptsGap: Bool = false,
        log: Log, clock: any WallClock = SystemClock()
    ) throws {
        self.log = log
        cluster = try KafkaCluster.open(configuration, log: log)
        ingest = try KafkaIngest(configuration, log: log)
        var settings = TransactionalLog<KafkaCluster>.Configuration()
        settings.commitIntervalMicroseconds = configuration.commitIntervalMicroseconds
        settings.begin = begin
        settings.acceptsGap = acceptsGap
        switch place {
        case .slot(let slot):
            try cluster.roster.take(slot)
            transactions = try TransactionalLog(cluster, settings, slot: slot, log: log, clock: clock)
        case .free(let count):
            settings.standsBy = true
            transactions = try TransactionalLog(cluster, settings, slot: nil, log: log, clock: clock)
            cluster.roster.wait(forOneOf: count) { [weak transactions] in transactions?.sit(in: $0) }
        }
    }

    /// For tests: says nothing to the other workers, as a process that stands still.
    func fallSilent(_ isSilent: Bool) { cluster.roster.fallSilent(isSilent) }

    /// The slot that this worker has; `nil` while it stands by.
    package var slot: Int? { cluster.roster.slot }

    package var onCommit: (@Sendable (_ partition: Int, _ seq: UInt64) -> Void)? {
        get { transactions.onCommit }
        set { transactions.onCommit = newValue }
    }

    package func next(into batch: EventBatch, waitMicroseconds: Int) throws -> LogStep {
        cluster.roster.loopLives()
        return try transactions.next(into: batch, waitMicroseconds: waitMicroseconds)
    }

    package func seek(partition: Int, to offset: UInt64) throws {
        try transactions.seek(partition: partition, to: offset)
    }

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

    package var halted: [Int: String] { transactions.halted }

    package var memory: StoreMemory? { nil }

    package func close() {
        // Whoever claims the slot is told by the group at once; the others notice nothing.
        let standbys = cluster.roster.standbys
        log.info(
            standbys > 0
                ? "hands its slot over to a standby" : "leaves the group, which gives its partitions to the others",
            ["slot": cluster.roster.slot ?? -1])
        transactions.close(handsOver: standbys > 0)
        cluster.roster.leave()
    }

    package func append(
        _ events: borrowing AppendRequest,
        acknowledged: @escaping @Sendable (Result<[Int: UInt64], any Error>) -> Void
    ) throws { try ingest.append(events, acknowledged: acknowledged) }

    package var backlog: (events: UInt64, oldestAppendTime: Int64) { (UInt64(transactions.waiting), 0) }
}
