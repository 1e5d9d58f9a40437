internal import Synchronization

/// What a relay has sent. Thread-safe.
package final class RelayFigures: Sendable {
    private let batchCount = Atomic<UInt64>(0)
    private let byteCount = Atomic<UInt64>(0)
    private let repairCount = Atomic<UInt64>(0)

    package var batches: UInt64 { batchCount.load(ordering: .relaxed) }
    package var bytes: UInt64 { byteCount.load(ordering: .relaxed) }
    package var repairs: UInt64 { repairCount.load(ordering: .relaxed) }

    /// Prometheus text. `failedPublishes` did not reach the bus: replicas that miss them ask for a repair.
    package func metricsText(failedPublishes: UInt64) -> String {
        let rows: [(name: String, help: String, value: UInt64)] = [
            ("batches", "Batches sent to the bus.", batches), ("bytes", "Bytes of those batches.", bytes),
            ("repairs", "Batches sent again because a replica asked.", repairs),
            ("failed_publishes", "Batches that the bus did not acknowledge.", failedPublishes),
        ]
        return rows.map { row in
            let metric = "tideline_relay_\(row.name)_total"
            return "# HELP \(metric) \(row.help)\n# TYPE \(metric) counter\n\(metric) \(row.value)\n"
        }.joined()
    }

    func published(bytes: Int) {
        batchCount.add(1, ordering: .relaxed)
        byteCount.add(UInt64(bytes), ordering: .relaxed)
    }

    func repaired() { repairCount.add(1, ordering: .relaxed) }
}
