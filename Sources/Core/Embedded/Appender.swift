internal import Foundation
import Changes
import Storage

/// Events to append, grouped by partition.
package struct AppendRequest: ~Copyable {
    struct Part {
        var ends: [UInt32] = []
        var bytes: [UInt8] = []
    }

    private(set) var parts: [Int: Part] = [:]
    package private(set) var count = 0

    package init() {}

    package mutating func add(_ event: UnsafeRawBufferPointer, partition: Int) {
        unsafe parts[partition, default: Part()].bytes.append(contentsOf: event)
        parts[partition, default: Part()].ends.append(UInt32(parts[partition]?.bytes.count ?? 0))
        count += 1
    }

    /// Visits the events by partition, each partition's in the order in which they were added.
    package func forEach(_ visit: (_ partition: Int, _ event: UnsafeRawBufferPointer) throws -> Void) rethrows {
        for (partition, part) in parts.sorted(by: { $0.key < $1.key }) {
            try unsafe part.bytes.withUnsafeBytes { bytes in
                var start = 0
                for end in part.ends {
                    try unsafe visit(partition, UnsafeRawBufferPointer(rebasing: bytes[start..<Int(end)]))
                    start = Int(end)
                }
            }
        }
    }
}

/// Gives events their offsets and writes them. Callers that come while a write is under way are written together by
/// the first of them: one synced write serves all (group commit).
///
/// `@unchecked Sendable`: all state is guarded by the condition; only the leader touches the batch.
final class Appender: @unchecked Sendable {
    private final class Waiting {
        let parts: [Int: AppendRequest.Part]
        let appendTime: Int64
        var ends: [Int: UInt64] = [:]
        var failure: (any Error)?
        var done = false

        init(_ parts: [Int: AppendRequest.Part], _ appendTime: Int64) {
            self.parts = parts
            self.appendTime = appendTime
        }
    }

    private let store: Store
    private let condition = NSCondition()
    private var queue: [Waiting] = []
    private var writing = false
    private var ends: [UInt64]
    /// More callers than this wait their turn outside: the queue is bounded by the server's connections.
    private let batch = StoreBatch()

    init(_ store: Store, ends: [UInt64]) {
        self.store = store
        self.ends = ends
    }

    func append(_ request: borrowing AppendRequest, appendTime: Int64) throws -> [Int: UInt64] {
        let waiting = Waiting(request.parts, appendTime)
        condition.lock()
        queue.append(waiting)
        while writing && !waiting.done { condition.wait() }
        if !waiting.done {
            writing = true
            let group = queue
            queue = []
            condition.unlock()
            write(group)
            condition.lock()
            for member in group { member.done = true }
            writing = false
            condition.broadcast()
        }
        condition.unlock()
        if let failure = waiting.failure { throw failure }
        return waiting.ends
    }

    private func write(_ group: [Waiting]) {
        batch.clear()
        var next = ends
        var value = ByteWriter(capacity: 1 << 16)
        for member in group {
            for (partition, part) in member.parts {
                value.removeAll()
                value.append(member.appendTime)
                value.append(UInt32(part.ends.count))
                for end in part.ends { value.append(end) }
                unsafe part.bytes.withUnsafeBytes { unsafe value.append($0) }
                unsafe EmbeddedLogKeys.key(EmbeddedLogKeys.input, partition, next[partition]).withUnsafeBytes {
                    unsafe batch.put($0, value.bytes)
                }
                next[partition] += UInt64(part.ends.count)
                member.ends[partition] = next[partition]
            }
        }
        do {
            try store.write(batch, synced: true)
            ends = next
        } catch {
            for member in group { member.failure = error }
        }
    }
}
