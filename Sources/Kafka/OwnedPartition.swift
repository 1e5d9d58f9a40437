internal import Foundation
import Changes
import Core
import Service

/// A partition that this worker owns: its two transactional producers, and where its input is read.
///
/// `@unchecked Sendable`: the scoring loop uses `input`, `position` and `takenAt`; the thread that commits uses the rest;
/// `input` and `settled` are set and read under the log's lock, and `queued` of `input` may be asked by anyone.
final class OwnedPartition: @unchecked Sendable {
    private let partition: Int
    private let configuration: KafkaConfiguration
    private let log: Log
    private var producers: [TransactionalProducer] = []
    /// Which of the two is next.
    private var turn = 0
    var input: PartitionReader?
    /// Where `next` goes on.
    var position: UInt64 = 0
    /// Up to where the changelog holds the input, or where a pipeline without a changelog begins.
    var settled: UInt64?
    /// When a batch was last taken, microseconds since 1970.
    var takenAt: Int64 = 0

    /// After so long without an answer the outcome of a commit is uncertain.
    private static let commitMilliseconds: Int32 = 15_000

    init(_ partition: Int, _ configuration: KafkaConfiguration, log: Log) throws {
        self.partition = partition
        self.configuration = configuration
        self.log = log
    }

    /// Where clients are destroyed, which takes a tenth of a second each: nobody waits for it.
    private static let reaper = DispatchQueue(label: "tideline.kafka.reaper")

    /// Lets go of the partition. A commit that is under way on another thread keeps it until it ends.
    func retire() { Self.reaper.async { [self] in withExtendedLifetime(self) {} } }

    /// Initialises both ids, always the first one first, and uses it first: in any other order two workers could each
    /// hold one valid id and commit an event twice.
    func takeOver() throws {
        // The old producers go first: a client that lives on would answer for the same id.
        producers.removeAll()
        turn = 0
        let hooks = ClientHooks()
        hooks.log = log
        for id in configuration.transactionalIds(partition: partition) {
            let producer = try TransactionalProducer(configuration.transactional(id: id), hooks: hooks)
            try Self.patiently("init \(id)", log) { () throws(KafkaError) in
                try producer.initialize(milliseconds: 10_000)
            }
            // Cold metadata costs the first transaction a second.
            for topic in [configuration.scores, configuration.changes, configuration.deadLetters] {
                try producer.warm(topic)
            }
            producers.append(producer)
        }
    }

    /// Repeats what may succeed when it is repeated.
    private static func patiently(_ what: String, _ log: Log, _ body: () throws(KafkaError) -> Void) throws(KafkaError)
    {
        while true {
            do { return try body() } catch {
                guard error.isRetriable || error.isTimeout else { throw error }
                log.warning("kafka: again", ["what": what, "because": error.text])
            }
        }
    }

    /// Writes one transaction. `lastSeq` reads the changelog's end, for an outcome that nobody told.
    func commit(_ commit: StagedCommit, lastSeq: () throws -> UInt64) throws -> CommitOutcome {
        let producer = producers[turn]
        do {
            try producer.begin()
            try produce(commit, producer)
            try producer.commit(milliseconds: Self.commitMilliseconds)
            turn = 1 - turn
            return .committed
        } catch {
            return try settle(error, commit.seq, producer, lastSeq)
        }
    }

    private func produce(_ commit: StagedCommit, _ producer: TransactionalProducer) throws(KafkaError) {
        let ends = unsafe commit.scoreEnds
        let (lines, entities) = unsafe (commit.scores, commit.entities)
        if ends.count > 0 {
            try unsafe producer.produce(configuration.scores, partition, count: ends.count) { index in
                let before = unsafe index == 0 ? ScoreEnds(line: 0, entity: 0) : ends[index - 1]
                let end = unsafe ends[index]
                // Without the line's end: a record is one line.
                return unsafe (
                    UnsafeRawBufferPointer(rebasing: entities[Int(before.entity)..<Int(end.entity)]),
                    UnsafeRawBufferPointer(rebasing: lines[Int(before.line)..<(Int(end.line) - 1)])
                )
            }
        }
        var seq = commit.seq.littleEndian
        try unsafe withUnsafeBytes(of: &seq) { (key) throws(KafkaError) in
            try unsafe producer.produce(configuration.changes, partition, key: key, value: commit.changes)
            if unsafe commit.deadLetters.count > 0 {
                try unsafe producer.produce(configuration.deadLetters, partition, key: key, value: commit.deadLetters)
            }
        }
    }

    /// What a failed commit means. An outcome that is not known is never followed by an abort: both ids are initialised
    /// again, which waits until the old outcome stands, and the changelog tells.
    private func settle(
        _ error: KafkaError, _ seq: UInt64, _ producer: TransactionalProducer, _ lastSeq: () throws -> UInt64
    ) throws -> CommitOutcome {
        if error.isFenced { return .lost }
        if error.isAbortable {
            do {
                try Self.patiently("abort", log) { () throws(KafkaError) in try producer.abort(milliseconds: 10_000) }
                return .aborted
            } catch {
                guard !error.isFenced else { return .lost }
            }
        }
        log.warning("outcome uncertain", ["partition": partition, "seq": seq, "because": error.description])
        try takeOver()
        return try lastSeq() >= seq ? .committed : .aborted
    }
}

/// The batches that this process committed last, encoded: the relay reads them here instead of from the broker.
///
/// Bounded by bytes a partition. `@unchecked Sendable`: guarded by the lock.
final class RecentBatches: @unchecked Sendable {
    private struct Ring {
        var first: UInt64 = 1
        var batches: [[UInt8]] = []
        var bytes = 0
    }

    private let lock = NSLock()
    private var rings: [Ring]
    private static let bytesMax = 8 << 20

    init(partitions: Int) { rings = Array(repeating: Ring(), count: partitions) }

    func append(_ partition: Int, _ seq: UInt64, _ encoded: UnsafeRawBufferPointer) {
        let copy = unsafe Array(encoded)
        lock.withLock {
            if rings[partition].first + UInt64(rings[partition].batches.count) != seq {
                rings[partition] = Ring(first: seq)
            }
            rings[partition].batches.append(copy)
            rings[partition].bytes += copy.count
            while rings[partition].bytes > Self.bytesMax, rings[partition].batches.count > 1 {
                rings[partition].bytes -= rings[partition].batches.removeFirst().count
                rings[partition].first += 1
            }
        }
    }

    /// Visits the batches after `seq`. Returns false where the next one is not here.
    func batches(
        _ partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws -> Bool {
        var next = seq + 1
        var any = false
        while true {
            let batch: [UInt8]? = lock.withLock {
                let ring = rings[partition]
                guard next >= ring.first, next < ring.first + UInt64(ring.batches.count) else { return nil }
                return ring.batches[Int(next - ring.first)]
            }
            guard let batch else { return any }
            any = true
            guard try unsafe batch.withUnsafeBytes({ try unsafe visit(next, $0) }) else { return true }
            next += 1
        }
    }
}
