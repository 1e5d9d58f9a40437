internal import Synchronization
import Changes
import Service

/// What an edge tells about itself. Thread-safe.
package final class EdgeFigures: Sendable {
    private let batchCount = Atomic<UInt64>(0)
    private let eventCount = Atomic<UInt64>(0)
    private let refusedCount = Atomic<UInt64>(0)
    private let repairCount = Atomic<UInt64>(0)
    private let divergedCount = Atomic<UInt64>(0)
    /// From commit at the core to apply here; clocks of two machines, microseconds.
    package let applyLag = LatencySketch()
    /// From ingest at the core to visible here, microseconds.
    package let visible = LatencySketch()

    package init() {}

    package var batches: UInt64 { batchCount.load(ordering: .relaxed) }
    package var events: UInt64 { eventCount.load(ordering: .relaxed) }
    package var batchesRefused: UInt64 { refusedCount.load(ordering: .relaxed) }
    package var repairs: UInt64 { repairCount.load(ordering: .relaxed) }
    package var divergences: UInt64 { divergedCount.load(ordering: .relaxed) }

    func refused() { refusedCount.add(1, ordering: .relaxed) }
    func repaired() { repairCount.add(1, ordering: .relaxed) }
    func diverged() { divergedCount.add(1, ordering: .relaxed) }

    func applied(_ batch: ChangeBatch, now: Int64) {
        batchCount.add(1, ordering: .relaxed)
        eventCount.add(UInt64(batch.header.scored), ordering: .relaxed)
        applyLag.record(now - batch.header.commitTime, weight: UInt64(batch.header.scored))
        var time: Int64 = 0
        var count: UInt64 = 0
        batch.forEachChange { change in
            guard change.kind == .event, let record = unsafe EventRecord(change.value) else { return }
            if record.ingestTime != time, count > 0 {
                visible.record(now - time, weight: count)
                count = 0
            }
            time = record.ingestTime
            count += 1
        }
        if count > 0 { visible.record(now - time, weight: count) }
    }
}
