internal import Foundation
import Changes
import Service
import Storage

/// The log of one machine: a RocksDB directory with the partitions, the atomic commit and the order of the real thing.
/// It is not a cluster. Commits and appends are on the disk when they return.
///
/// `@unchecked Sendable`: shared state is guarded by the condition; `next` is the scoring loop's alone, and one commit runs
/// at a time.
package final class EmbeddedLog: IngestLog, @unchecked Sendable {
    package let stored: EmbeddedLogReader
    package var reader: any LogReader { stored }
    package var lineage: Lineage { stored.lineage }
    package var partitions: Int { stored.partitions }
    private let store: Store
    private let clock: any WallClock
    /// How long the first event of a small batch waits for more, microseconds.
    private let lingerMicroseconds: Int64
    private let appender: Appender
    private let condition = NSCondition()
    private var state: [PartitionState]
    private var assignedUpTo = 0
    private var turn = 0
    private let commitBatch = StoreBatch()
    /// Called after each commit, on the scoring loop's thread: wakes the relay.
    package var onCommit: (@Sendable (_ partition: Int, _ seq: UInt64) -> Void)?

    private struct PartitionState {
        /// Where `next` goes on.
        var position: UInt64
        /// After the last durable event.
        var end: UInt64
        /// When the first event that `next` has not given out was taken; 0 for none.
        var waitingSince: Int64
        var changelogEnd: UInt64
    }

    static var storeConfiguration: Store.Configuration {
        var configuration = Store.Configuration()
        configuration.hasLog = true
        configuration.writeBufferBytes = 64 << 20
        return configuration
    }

    /// Opens the log, or makes it with so many partitions.
    package init(
        path: String, partitions: Int?, lingerMicroseconds: Int = 2500, clock: any WallClock = SystemClock()
    ) throws {
        store = try Store(path: path, Self.storeConfiguration)
        self.clock = clock
        self.lingerMicroseconds = Int64(lingerMicroseconds)
        if try unsafe store.get(EmbeddedLogKeys.identity, { _ in true }) == nil {
            var identity = ByteWriter()
            let lineage = Lineage.random()
            identity.append(lineage.high)
            identity.append(lineage.low)
            identity.append(UInt32(partitions ?? 4))
            identity.append(EmbeddedLogKeys.format)
            let batch = StoreBatch()
            batch.put(EmbeddedLogKeys.identity, unsafe Array(identity.bytes))
            try store.write(batch, synced: true)
        }
        let reader = try EmbeddedLogReader(store)
        stored = reader
        if let partitions, partitions != reader.partitions {
            throw EmbeddedLogError.partitionsDiffer(have: reader.partitions, want: partitions)
        }
        state = try (0..<reader.partitions).map {
            PartitionState(
                position: 0, end: try reader.inputEnd(of: $0), waitingSince: 0,
                changelogEnd: try reader.changelogEnd(of: $0))
        }
        appender = Appender(store, ends: state.map(\.end))
    }

    /// One process holds the log.
    package func vouchedEnd(of partition: Int) -> UInt64? { changelogEnd(of: partition) }

    package var memory: StoreMemory? { store.memory }

    // MARK: ingest

    /// Appends events, each to its partition, and returns when they are on the disk.
    ///
    /// Returns each partition's end offset after them: the read token. Many callers at once share one write.
    package func append(_ events: borrowing AppendRequest) throws -> [Int: UInt64] {
        let now = clock.now
        let ends = try appender.append(events, appendTime: now)
        condition.lock()
        for (partition, end) in ends where end > state[partition].end {
            if state[partition].waitingSince == 0 { state[partition].waitingSince = now }
            state[partition].end = end
        }
        condition.signal()
        condition.unlock()
        return ends
    }

    package func append(
        _ events: borrowing AppendRequest,
        acknowledged: @escaping @Sendable (Result<[Int: UInt64], any Error>) -> Void
    ) throws { acknowledged(.success(try append(events))) }

    /// Events that were taken but not yet committed, and since when the oldest of them waits (0 for none).
    package var backlog: (events: UInt64, oldestAppendTime: Int64) {
        condition.lock()
        defer { condition.unlock() }
        return (
            state.reduce(0) { $0 + ($1.end - min($1.position, $1.end)) },
            state.map(\.waitingSince).filter { $0 > 0 }.min() ?? 0
        )
    }

    // MARK: the scoring loop's side

    package func seek(partition: Int, to offset: UInt64) throws {
        condition.lock()
        defer { condition.unlock() }
        guard offset <= state[partition].end else {
            throw EmbeddedLogError.corrupt("a position of \(offset) beyond its own end \(state[partition].end)")
        }
        state[partition].position = offset
        state[partition].waitingSince = offset < state[partition].end ? 1 : 0
    }

    /// Nobody shares the log.
    package var slot: Int? { 0 }
    package var halted: [Int: String] { [:] }

    /// All partitions are ours from the first steps on.
    package func follow(
        partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) {}

    package func next(into batch: EventBatch, waitMicroseconds: Int) throws -> LogStep {
        if assignedUpTo < partitions {
            defer { assignedUpTo += 1 }
            return .assigned(partition: assignedUpTo)
        }
        guard let partition = waitForEvents(microseconds: waitMicroseconds, enough: batch.eventsMax / 4) else {
            return .idle
        }
        condition.lock()
        let position = state[partition].position
        condition.unlock()
        batch.begin(partition: partition, firstOffset: position)
        try unsafe stored.input(of: partition, from: position) { offset, event, time in
            guard offset == batch.endOffset else { throw EmbeddedLogError.corrupt("a gap in its input") }
            if batch.count > 0, batch.byteCount + event.count > batch.bytesMax { return false }
            unsafe batch.append(event, appendTime: time)
            return !batch.isFull
        }
        condition.lock()
        state[partition].position = batch.endOffset
        state[partition].waitingSince =
            batch.endOffset < state[partition].end ? batch.appendTime(batch.count - 1) : 0
        condition.unlock()
        return .events(partition: partition)
    }

    /// The partition whose turn it is: one with enough events, or with one that has waited long enough.
    private func waitForEvents(microseconds: Int, enough: Int) -> Int? {
        let deadline = clock.now + Int64(microseconds)
        condition.lock()
        defer { condition.unlock() }
        while true {
            let now = clock.now
            var wakeAt = deadline
            for step in 0..<partitions {
                let partition = (turn + step) % partitions
                let pending = state[partition].end - min(state[partition].end, state[partition].position)
                guard pending > 0 else { continue }
                let due = state[partition].waitingSince + lingerMicroseconds
                if pending >= UInt64(enough) || due <= now {
                    turn = (partition + 1) % partitions
                    return partition
                }
                wakeAt = min(wakeAt, due)
            }
            guard now < deadline else { return nil }
            _ = condition.wait(until: Date(timeIntervalSince1970: Double(wakeAt) / 1_000_000))
        }
    }

    package func commit(_ commit: StagedCommit) throws -> CommitOutcome {
        commitBatch.clear()
        let partition = commit.partition
        unsafe put(EmbeddedLogKeys.changes, commit, commit.changes)
        if unsafe commit.scores.count > 0 { unsafe put(EmbeddedLogKeys.scores, commit, commit.scores) }
        if unsafe commit.deadLetters.count > 0 { unsafe put(EmbeddedLogKeys.deadLetters, commit, commit.deadLetters) }
        // A write that fails leaves the outcome unknown: the error stops the core, and recovery reads what stands.
        try store.write(commitBatch, synced: true)
        condition.lock()
        precondition(state[partition].changelogEnd + 1 == commit.seq, "seq is dense")
        state[partition].changelogEnd = commit.seq
        condition.unlock()
        onCommit?(partition, commit.seq)
        return .committed
    }

    private func put(_ kind: UInt8, _ commit: StagedCommit, _ value: UnsafeRawBufferPointer) {
        unsafe EmbeddedLogKeys.key(kind, commit.partition, commit.seq).withUnsafeBytes {
            unsafe commitBatch.put($0, value)
        }
    }

    package func changelog(
        of partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ encoded: UnsafeRawBufferPointer) throws -> Bool
    ) throws { try unsafe stored.changelog(of: partition, after: seq, visit) }

    package func changelogEnd(of partition: Int) -> UInt64? {
        condition.lock()
        defer { condition.unlock() }
        return state[partition].changelogEnd
    }

    /// Puts everything on the disk before a planned stop.
    package func close() throws { try store.flush() }
}
