internal import Foundation

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
