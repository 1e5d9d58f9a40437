internal import Synchronization

/// What a relay has sent. Thread-safe.
package final class RelayFigures: Sendable {
    private let batchCount = Atomic<UInt64>(0)
    private let byteCount = Atomic<UInt64>(0)
    private let repairCount = Atomic<UInt64>(0)

    package var batches: UInt64 { batchCount.load(ordering: .relaxed) }
    package var bytes: UInt64 { byteCount.load(ordering: .relaxed) }
    package var repairs: UInt64 { repairCount.load(ordering: .relaxed) }

    func published(bytes: Int) {
        batchCount.add(1, ordering: .relaxed)
        byteCount.add(UInt64(bytes), ordering: .relaxed)
    }

    func repaired() { repairCount.add(1, ordering: .relaxed) }
}
