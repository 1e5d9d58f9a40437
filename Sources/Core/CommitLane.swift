internal import Foundation
import Changes
import Features
import Service
import Storage

/// One batch from its events to its outcome: what was read, what was staged, what stands after it.
///
/// `@unchecked Sendable`: the scoring loop and the lane's thread touch it in turn, never at once; the lane's condition
/// orders them.
final class Flight: @unchecked Sendable {
    let batch: EventBatch
    var writer: ChangeBatchWriter
    var scores = ByteWriter(capacity: 1 << 20)
    var scoreEnds: [ScoreEnds] = []
    var entities = ByteWriter(capacity: 1 << 16)
    var deadLetters = ByteWriter(capacity: 1 << 16)
    var tally = Assembler.Tally()
    var flagged: UInt32 = 0
    var header: ChangeBatchHeader?
    var seen = SeenIds.Mark()
    /// Where the partition stands after the batch. Its digest is the one before the batch until `commit` has been.
    var position: AppliedPosition
    var started: Int64 = 0
    var staged: Int64 = 0
    var committed: Int64 = 0

    init(eventsMax: Int, compression: Compression, lineage: Lineage) {
        batch = EventBatch(eventsMax: eventsMax)
        writer = ChangeBatchWriter(compression: compression)
        position = AppliedPosition(lineage: lineage)
    }

    func begin() {
        scores.removeAll()
        scoreEnds.removeAll(keepingCapacity: true)
        entities.removeAll()
        deadLetters.removeAll()
        flagged = 0
        header = nil
    }

    /// Encodes the staged batch and writes it. Blocking.
    func commit(to log: any EventLog, clock: any WallClock) throws -> CommitOutcome {
        guard let header else { preconditionFailure("a batch is staged before it is committed") }
        let (outcome, digest) = try unsafe writer.encode(header, digestAfter: position.digest) { encoded, digest in
            try unsafe scoreEnds.withUnsafeBufferPointer { ends in
                let commit = unsafe StagedCommit(
                    partition: batch.partition, seq: header.seq, endOffset: batch.endOffset, changes: encoded,
                    scores: scores.bytes, scoreEnds: ends, entities: entities.bytes, deadLetters: deadLetters.bytes)
                return (try log.commit(commit), digest)
            }
        }
        position.digest = digest
        committed = clock.now
        return outcome
    }
}

/// Commits one batch while the scoring loop assembles the next. Commits never overlap: a batch may have read what the
/// one before it changed.
///
/// A large batch is handed to a thread of the lane's own: encoding and the log's write take a quarter of an event's
/// time. A small one is committed on the caller's thread, where the hand-over would cost more than it hides; without
/// a thread all are, which makes a history repeatable.
///
/// `@unchecked Sendable`: the slot is guarded by the condition.
final class CommitLane: @unchecked Sendable {
    private let log: any EventLog
    private let clock: any WallClock
    private let condition = NSCondition()
    private let hasThread: Bool
    private var submitted: Flight?
    private var result: Result<CommitOutcome, any Error>?
    private var ended = false

    init(_ log: any EventLog, clock: any WallClock, hasThread: Bool) {
        self.log = log
        self.clock = clock
        self.hasThread = hasThread
        guard hasThread else { return }
        let thread = Thread { [self] in run() }
        thread.name = "commit"
        thread.start()
    }

    /// Begins a commit. `beside`: on the lane's thread.
    func begin(_ flight: Flight, beside: Bool) {
        guard beside, hasThread else {
            result = Result { try flight.commit(to: log, clock: clock) }
            return
        }
        condition.lock()
        submitted = flight
        condition.broadcast()
        condition.unlock()
    }

    /// Waits for the outcome of what was begun.
    func finish() throws -> CommitOutcome {
        condition.lock()
        defer { condition.unlock() }
        while result == nil { condition.wait() }
        defer { result = nil }
        guard let result else { preconditionFailure("waited for a result") }
        return try result.get()
    }

    /// Ends the thread, which holds the lane until then.
    func end() {
        condition.lock()
        ended = true
        condition.broadcast()
        condition.unlock()
    }

    private func run() {
        condition.lock()
        while true {
            while submitted == nil, !ended { condition.wait() }
            guard let flight = submitted else { break }
            submitted = nil
            condition.unlock()
            let outcome = Result { try flight.commit(to: log, clock: clock) }
            condition.lock()
            result = outcome
            condition.broadcast()
        }
        condition.unlock()
    }
}
