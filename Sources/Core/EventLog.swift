import Changes
import Features
import Storage

/// Where events come from and where commits go: the embedded log, or Kafka.
///
/// Pull is the backpressure: nothing is read that cannot be processed. Partitions are assigned and revoked only inside
/// `next`. One thread, the scoring loop, calls `next` and `seek`; one `commit` runs at a time, on that thread or beside
/// it; `changelog` may be called from any thread.
package protocol EventLog: AnyObject, Sendable {
    var lineage: Lineage { get }
    var partitions: Int { get }

    /// Pulls the next step, waiting at most so long for one. Events are put into `batch`.
    func next(into batch: EventBatch, waitMicroseconds: Int) throws -> LogStep

    /// Says where `next` goes on in a partition: the position comes from the changelog, never from a second place.
    func seek(partition: Int, to offset: UInt64) throws

    /// Writes scores, change batch and dead letters atomically. Blocking; an uncertain outcome is resolved inside.
    func commit(_ commit: StagedCommit) throws -> CommitOutcome

    /// Visits the committed batches of a partition after `seq`, in order, while `visit` says so.
    func changelog(
        of partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ encoded: UnsafeRawBufferPointer) throws -> Bool) throws

    /// Visits what other processes have committed to a partition that is not ours, after `seq`, as far as it has come. Never
    /// blocks: where following begins, nothing comes for a moment.
    func follow(
        partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ encoded: UnsafeRawBufferPointer) throws -> Bool) throws

    /// The seq of the partition's last committed batch; 0 before the first, `nil` where the partition is not ours.
    func changelogEnd(of partition: Int) -> UInt64?
}

package enum LogStep: Equatable, Sendable {
    /// The partition is ours: nobody else's transaction is open on it or can still be committed. From now on `changelog`
    /// gives all that there is.
    case assigned(partition: Int)
    /// The partition is no longer ours, or none is.
    case revoked(partition: Int?)
    /// `batch` holds events of this partition.
    case events(partition: Int)
    /// Nothing came in the time given.
    case idle
}

package enum CommitOutcome: Equatable, Sendable {
    case committed
    /// Nothing of it stands: drop what was staged and take the same events again.
    case aborted
    /// Another process has taken the partition. If it is given to us again, `next` says so.
    case lost
}

/// One transaction's output, staged. The pointers are valid during `commit` alone.
@safe package struct StagedCommit {
    package let partition: Int
    package let seq: UInt64
    package let endOffset: UInt64
    /// The encoded `ChangeBatch`.
    package let changes: UnsafeRawBufferPointer
    /// One JSON line a scored event.
    package let scores: UnsafeRawBufferPointer
    /// Where each line and its event's primary entity end.
    package let scoreEnds: UnsafeBufferPointer<ScoreEnds>
    /// The lines' primary entities.
    package let entities: UnsafeRawBufferPointer
    /// `DeadLetter` records; empty where there are none.
    package let deadLetters: UnsafeRawBufferPointer

    package init(
        partition: Int, seq: UInt64, endOffset: UInt64, changes: UnsafeRawBufferPointer,
        scores: UnsafeRawBufferPointer, scoreEnds: UnsafeBufferPointer<ScoreEnds>, entities: UnsafeRawBufferPointer,
        deadLetters: UnsafeRawBufferPointer
    ) {
        self.partition = partition
        self.seq = seq
        self.endOffset = endOffset
        unsafe self.changes = unsafe changes
        unsafe self.scores = unsafe scores
        unsafe self.scoreEnds = unsafe scoreEnds
        unsafe self.entities = unsafe entities
        unsafe self.deadLetters = unsafe deadLetters
    }
}

/// The ends of a score's line among the lines, and of its entity among the entities.
package struct ScoreEnds: Sendable {
    package var line: UInt32
    package var entity: UInt32

    package init(line: UInt32, entity: UInt32) {
        self.line = line
        self.entity = entity
    }
}

/// Events of one partition in the order of the log, in buffers that are reused.
package final class EventBatch {
    package private(set) var partition = 0
    package private(set) var firstOffset: UInt64 = 0
    package private(set) var count = 0
    private var bytes = ByteWriter(capacity: 1 << 20)
    private var ends: [Int] = []
    private var appendTimes: [Int64] = []
    private var offsets: [UInt64] = []
    package let eventsMax: Int
    package let bytesMax: Int
    /// How many events a log may give, at most `eventsMax`: what they become is bounded too.
    package var limit: Int

    package init(eventsMax: Int = 2000, bytesMax: Int = 1 << 20) {
        self.eventsMax = eventsMax
        self.bytesMax = bytesMax
        limit = eventsMax
        ends.reserveCapacity(eventsMax)
        appendTimes.reserveCapacity(eventsMax)
        offsets.reserveCapacity(eventsMax)
    }

    /// After the last event.
    package private(set) var endOffset: UInt64 = 0
    /// Offsets of the range that hold no event.
    package var gaps: UInt32 { UInt32(endOffset - firstOffset) - UInt32(count) }
    package var isFull: Bool { count >= limit || bytes.count >= bytesMax }
    /// There is so much to commit that it pays to do it on another thread.
    var isLarge: Bool { count >= max(1, limit / 8) }
    package var byteCount: Int { bytes.count }

    package func begin(partition: Int, firstOffset: UInt64) {
        self.partition = partition
        self.firstOffset = firstOffset
        endOffset = firstOffset
        count = 0
        bytes.removeAll()
        ends.removeAll(keepingCapacity: true)
        appendTimes.removeAll(keepingCapacity: true)
        offsets.removeAll(keepingCapacity: true)
        // Readable bytes behind the last event, so that the decoder need not copy it.
        bytes.reserve(bytesMax + EventDecoder.padding)
    }

    /// Appends the event at `offset`, or at the one after the last.
    package func append(_ event: UnsafeRawBufferPointer, appendTime: Int64, offset: UInt64? = nil) {
        let offset = offset ?? endOffset
        precondition(offset >= endOffset, "positions only move forward")
        unsafe bytes.append(event)
        ends.append(bytes.count)
        appendTimes.append(appendTime)
        offsets.append(offset)
        endOffset = offset + 1
        count += 1
    }

    /// Gives back what comes after the first events.
    package func truncate(to kept: Int) {
        precondition((1...count).contains(kept), "an event at least stays")
        guard kept < count else { return }
        endOffset = offsets[kept - 1] + 1
        bytes.truncate(to: ends[kept - 1])
        ends.removeLast(count - kept)
        appendTimes.removeLast(count - kept)
        offsets.removeLast(count - kept)
        count = kept
    }

    package func offset(_ index: Int) -> UInt64 { offsets[index] }

    /// When the log took the event, in microseconds since 1970.
    package func appendTime(_ index: Int) -> Int64 { appendTimes[index] }

    /// An event and how many bytes may be read from its beginning.
    package func event(_ index: Int) -> (bytes: UnsafeRawBufferPointer, readable: Int) {
        let start = index == 0 ? 0 : ends[index - 1]
        let all = unsafe bytes.bytes
        return unsafe (UnsafeRawBufferPointer(rebasing: all[start..<ends[index]]), bytes.capacityBytes - start)
    }
}

/// What a log holds, for those who read it: `verify`, the relay, the ingest's answers.
package protocol LogReader: AnyObject, Sendable {
    var lineage: Lineage { get }
    var partitions: Int { get }

    /// Visits the events of a partition from `offset` on, in order, while `visit` says so, up to the log's end.
    func input(
        of partition: Int, from offset: UInt64,
        _ visit: (_ offset: UInt64, _ event: UnsafeRawBufferPointer, _ appendTime: Int64) throws -> Bool) throws

    /// The offset after the partition's last event.
    func inputEnd(of partition: Int) throws -> UInt64

    /// The seq of the partition's last committed batch; 0 before the first.
    func changelogEnd(of partition: Int) throws -> UInt64

    func changelog(
        of partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ encoded: UnsafeRawBufferPointer) throws -> Bool) throws

    /// The scores of each transaction after `seq`: JSON lines.
    func scores(
        of partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ lines: UnsafeRawBufferPointer) throws -> Bool) throws

    func deadLetters(
        of partition: Int, after seq: UInt64, _ visit: (_ seq: UInt64, _ letters: [DeadLetter]) throws -> Bool) throws
}

/// A log into which the core's ingest puts events.
package protocol IngestLog: EventLog {
    var reader: any LogReader { get }

    /// Appends events, each to its partition. `acknowledged` is called when they are durable, with each partition's end
    /// after them, or with what went wrong: perhaps before this returns, perhaps on another thread.
    func append(
        _ events: borrowing AppendRequest,
        acknowledged: @escaping @Sendable (Result<[Int: UInt64], any Error>) -> Void) throws

    /// Events that were taken but not yet committed, and since when the oldest of them waits (0 for none).
    var backlog: (events: UInt64, oldestAppendTime: Int64) { get }

    /// The seq of the partition's last batch, where this process knows that it was the last a moment ago: a region's being
    /// fresh rests on it. `nil` where it does not: the partition is not ours, or the brokers have not said so lately.
    func vouchedEnd(of partition: Int) -> UInt64?

    /// This worker's place among those that share the log; `nil` while it stands by.
    var slot: Int? { get }

    /// Partitions that are ours and stand still until someone acts, with the reason and the remedy.
    var halted: [Int: String] { get }

    /// What the log's own store holds in memory; `nil` where it has none.
    var memory: StoreMemory? { get }

    /// Called after each commit, on the thread that commits: wakes the relay.
    var onCommit: (@Sendable (_ partition: Int, _ seq: UInt64) -> Void)? { get set }

    /// Before a planned stop, when nothing is under way any more.
    func close() throws
}

/// The log takes no more events for now.
package struct LogBusy: Error, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }
}
