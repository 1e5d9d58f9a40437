import Changes
import Features

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

    /// The seq of the partition's last committed batch; 0 before the first.
    func changelogEnd(of partition: Int) -> UInt64
}

package enum LogStep: Equatable, Sendable {
    case assigned(partition: Int)
    case revoked(partition: Int)
    /// `batch` holds events of this partition.
    case events(partition: Int)
    /// Nothing came in the time given.
    case idle
}

package enum CommitOutcome: Equatable, Sendable {
    case committed
    /// Nothing of it stands: drop what was staged and take the same events again.
    case aborted
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
    /// `DeadLetter` records; empty where there are none.
    package let deadLetters: UnsafeRawBufferPointer
}

/// Events of one partition in the order of the log, in buffers that are reused.
package final class EventBatch {
    package private(set) var partition = 0
    package private(set) var firstOffset: UInt64 = 0
    package private(set) var count = 0
    private var bytes = ByteWriter(capacity: 1 << 20)
    private var ends: [Int] = []
    private var appendTimes: [Int64] = []
    package let eventsMax: Int
    package let bytesMax: Int

    package init(eventsMax: Int = 2000, bytesMax: Int = 1 << 20) {
        self.eventsMax = eventsMax
        self.bytesMax = bytesMax
        ends.reserveCapacity(eventsMax)
        appendTimes.reserveCapacity(eventsMax)
    }

    package var endOffset: UInt64 { firstOffset + UInt64(count) }
    package var isFull: Bool { count >= eventsMax || bytes.count >= bytesMax }
    /// There is so much to commit that it pays to do it on another thread.
    var isLarge: Bool { count >= max(1, eventsMax / 8) }
    package var byteCount: Int { bytes.count }

    package func begin(partition: Int, firstOffset: UInt64) {
        self.partition = partition
        self.firstOffset = firstOffset
        count = 0
        bytes.removeAll()
        ends.removeAll(keepingCapacity: true)
        appendTimes.removeAll(keepingCapacity: true)
        // Readable bytes behind the last event, so that the decoder need not copy it.
        bytes.reserve(bytesMax + EventDecoder.padding)
    }

    package func append(_ event: UnsafeRawBufferPointer, appendTime: Int64) {
        unsafe bytes.append(event)
        ends.append(bytes.count)
        appendTimes.append(appendTime)
        count += 1
    }

    /// When the log took the event, in microseconds since 1970.
    package func appendTime(_ index: Int) -> Int64 { appendTimes[index] }

    /// An event and how many bytes may be read from its beginning.
    package func event(_ index: Int) -> (bytes: UnsafeRawBufferPointer, readable: Int) {
        let start = index == 0 ? 0 : ends[index - 1]
        let all = unsafe bytes.bytes
        return unsafe (UnsafeRawBufferPointer(rebasing: all[start..<ends[index]]), bytes.capacityBytes - start)
    }
}
