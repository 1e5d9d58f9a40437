import Replicate

/// What is measured of snapshots, as Prometheus rows: by a region and by a sealer alike.
package struct SnapshotMetrics: Sendable {
    package typealias Row = (name: String, type: String, help: String, values: [(labels: String, value: String)])

    private let figures: SnapshotFigures

    package init(_ figures: SnapshotFigures) { self.figures = figures }

    package var rows: [Row] {
        let refusals = figures.refusals
        let sealing = figures.sealing
        return [
            (
                "tideline_snapshots_refused_total", "counter", "Snapshots that were not taken, by reason.",
                SnapshotRefusal.Reason.allCases.map { (",reason=\"\($0.rawValue)\"", "\(refusals[$0] ?? 0)") }
            ),
            (
                "tideline_snapshot_refusal_standing", "gauge",
                "1 while a snapshot was refused and no good one has come since.",
                [("", figures.standingRefusal == nil ? "0" : "1")]
            ),
            (
                "tideline_snapshots_installed_total", "counter", "Snapshots that were put in place.",
                [("", "\(figures.installed)")]
            ),
            (
                "tideline_snapshot_fetched_bytes_total", "counter", "Bytes of snapshots that came over the bus.",
                [("", "\(figures.bytesFetched)")]
            ),
            (
                "tideline_segments_sealed_here_total", "counter", "Segments that a region sealed for itself.",
                [("", "\(figures.sealedHere)")]
            ),
            (
                "tideline_snapshots_published_total", "counter", "Snapshots that a sealer published.",
                [("", "\(sealing.published)")]
            ),
            (
                "tideline_sealed_rows_total", "counter", "Vectors that a sealer sealed, each once.",
                [("", "\(sealing.rows)")]
            ),
            (
                "tideline_sealed_bytes_total", "counter", "Bytes of files that a sealer made, by kind.",
                [
                    (",kind=\"sealed\"", "\(sealing.sealed)"), (",kind=\"merged\"", "\(sealing.merged)"),
                    (",kind=\"tables\"", "\(sealing.tables)"),
                ]
            ),
        ]
    }

    /// As text, for a role that has no other metrics.
    package func text(role: String) -> String {
        rows.map { row in
            "# HELP \(row.name) \(row.help)\n# TYPE \(row.name) \(row.type)\n"
                + row.values.map { "\(row.name){region=\"\(role)\"\($0.labels)} \($0.value)\n" }.joined()
        }.joined()
    }
}
