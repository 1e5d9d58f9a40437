import Changes

/// The event ids of a partition's recent past, so that what a producer sent twice is scored once.
///
/// Bounded by count and by age, both stated by the pipeline. Age is counted back from the newest id, by the times at which
/// the log took them: what is remembered is a function of the log, whatever any machine's clock says, and however late a
/// batch comes to be scored. Open addressing over 128-bit hashes beside a ring in the
/// order of arrival. Not thread-safe.
@safe package final class SeenIds {
    package struct Entry: Sendable, Equatable {
        package var hash: IdentityHash
        /// The append time of the event, microseconds since 1970.
        package var time: Int64
    }

    private let countMax: Int
    private let windowMicroseconds: Int64
    private var slots: UnsafeMutablePointer<UInt32>
    private let mask: Int
    private var ring: UnsafeMutablePointer<Entry>
    private let ringMask: Int
    private var head: UInt64 = 0
    private var tail: UInt64 = 0
    /// What is known to the log.
    private var committed = Mark()

    package init(countMax: Int, windowMicroseconds: Int64) {
        self.countMax = countMax
        self.windowMicroseconds = windowMicroseconds
        // Room for batches beyond the bound, since a rollback must be able to take entries back.
        var capacity = 1024
        while capacity < countMax + 8192 { capacity *= 2 }
        ringMask = capacity - 1
        mask = capacity * 2 - 1
        unsafe ring = .allocate(capacity: capacity)
        unsafe slots = .allocate(capacity: capacity * 2)
        unsafe slots.initialize(repeating: 0, count: capacity * 2)
    }

    deinit {
        unsafe ring.deallocate()
        unsafe slots.deallocate()
    }

    package var count: Int { Int(head - tail) }

    /// Asks for the place of an id ahead of its turn.
    package func prefetch(_ hash: IdentityHash) {
        unsafe Changes.prefetch(slots + (Int(truncatingIfNeeded: hash.low) & mask))
    }

    /// Remembers an id. Returns whether it is new within the window.
    package func insert(_ hash: IdentityHash, time: Int64) -> Bool {
        var at = Int(truncatingIfNeeded: hash.low) & mask
        while unsafe slots[at] != 0 {
            let entry = unsafe ring[Int(slots[at] - 1)]
            if entry.hash == hash { return false }
            at = (at + 1) & mask
        }
        let index = Int(truncatingIfNeeded: head) & ringMask
        unsafe ring[index] = Entry(hash: hash, time: time)
        unsafe slots[at] = UInt32(index + 1)
        head += 1
        return true
    }

    private func place(_ index: Int) {
        var at = Int(truncatingIfNeeded: unsafe ring[index].hash.low) & mask
        while unsafe slots[at] != 0 { at = (at + 1) & mask }
        unsafe slots[at] = UInt32(index + 1)
    }

    /// A batch's end among the ids, and where the window began after it.
    package struct Mark: Sendable {
        fileprivate var head: UInt64 = 0
        fileprivate var tail: UInt64 = 0

        init(head: UInt64 = 0, tail: UInt64 = 0) {
            self.head = head
            self.tail = tail
        }
    }

    /// Before this time an id is too old, as far as the log knows; with none remembered, nothing is.
    package var oldestKept: Int64 { oldestKept(before: committed.head) }

    private func oldestKept(before end: UInt64) -> Int64 {
        end > tail ? unsafe ring[Int(truncatingIfNeeded: end - 1) & ringMask].time - windowMicroseconds : .min
    }

    /// Ends a batch: what is over the bound or too old goes. Whether the next batch knows an id does not depend on when this
    /// one's outcome is told.
    package func seal() -> Mark {
        let oldestKept = oldestKept(before: head)
        while head > tail {
            let oldest = unsafe ring[Int(truncatingIfNeeded: tail) & ringMask]
            guard count > countMax || oldest.time < oldestKept else { break }
            remove(Int(truncatingIfNeeded: tail) & ringMask)
            tail += 1
        }
        return Mark(head: head, tail: tail)
    }

    /// The batch that ended so is in the log.
    package func commit(_ mark: Mark) { committed = mark }

    /// What is not committed is not in the log: its ids are unknown again, and those that it pushed out are back.
    package func rollback() {
        while head > committed.head {
            head -= 1
            // What the window has pushed out since is out of the table already.
            if head >= tail { remove(Int(truncatingIfNeeded: head) & ringMask) }
        }
        tail = min(tail, head)
        while tail > committed.tail {
            tail -= 1
            place(Int(truncatingIfNeeded: tail) & ringMask)
        }
    }

    /// The position after the last committed entry, for `entries(since:)`.
    package var position: UInt64 { committed.head }

    /// The committed entries between two positions that are left.
    package func entries(from position: UInt64, to end: UInt64) -> [Entry] {
        let from = max(position, committed.tail)
        guard from < end else { return [] }
        return (from..<end).map { unsafe ring[Int(truncatingIfNeeded: $0) & ringMask] }
    }

    /// Takes in what was remembered when it was written, oldest first; there may be older ones before it. Among those an id
    /// that was forgotten and came again stands twice: what the bounds push out goes first.
    package func restore(_ entries: [Entry]) {
        let oldestKept = (entries.last?.time ?? 0) - windowMicroseconds
        var first = max(0, entries.count - countMax)
        while first < entries.count, entries[first].time < oldestKept { first += 1 }
        for entry in entries[first...] { _ = insert(entry.hash, time: entry.time) }
        commit(seal())
    }

    /// Takes an entry out of the table and moves later ones of its run up, so that each is still found.
    private func remove(_ index: Int) {
        let hash = unsafe ring[index].hash
        var at = Int(truncatingIfNeeded: hash.low) & mask
        while unsafe slots[at] != UInt32(index + 1) {
            precondition(unsafe slots[at] != 0, "an entry of the ring is in the table")
            at = (at + 1) & mask
        }
        var hole = at
        var next = (at + 1) & mask
        while unsafe slots[next] != 0 {
            let home = Int(truncatingIfNeeded: unsafe ring[Int(slots[next] - 1)].hash.low) & mask
            if (next - home) & mask >= (next - hole) & mask {
                unsafe slots[hole] = unsafe slots[next]
                hole = next
            }
            next = (next + 1) & mask
        }
        unsafe slots[hole] = 0
    }
}
