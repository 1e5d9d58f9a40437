import Service
import Storage

/// What a region measures, as Prometheus text. The HTTP server adds its own.
struct EdgeMetrics: Sendable {
    private let region: Region

    init(_ region: Region) { self.region = region }

    func text(now: Int64) -> String {
        let name = region.configuration.name
        let status = region.status
        let state = status.state(now: now)
        var lines: [String] = []
        func add(_ metric: String, _ type: String, _ help: String, _ values: [(labels: String, value: String)]) {
            lines.append("# HELP \(metric) \(help)")
            lines.append("# TYPE \(metric) \(type)")
            for (labels, value) in values { lines.append("\(metric){region=\"\(name)\"\(labels)} \(value)") }
        }
        add(
            "tideline_edge_state", "gauge", "1 for the state that the region is in.",
            ["bootstrapping", "fresh", "repairing", "stale", "isolated"].map {
                (",state=\"\($0)\"", $0 == state.rawValue ? "1" : "0")
            })
        if let staleness = status.stalenessMilliseconds(now: now) {
            add(
                "tideline_edge_staleness_seconds", "gauge", "How old the newest knowledge may be.",
                [("", "\(Double(staleness) / 1000)")])
        }
        add("tideline_edge_batches_total", "counter", "Batches applied.", [("", "\(region.figures.batches)")])
        add("tideline_edge_events_total", "counter", "Events applied.", [("", "\(region.figures.events)")])
        add("tideline_edge_repairs_total", "counter", "Repairs asked for.", [("", "\(region.figures.repairs)")])
        add(
            "tideline_edge_divergences_total", "counter", "Digests that differed.",
            [("", "\(region.figures.divergences)")])
        add(
            "tideline_edge_batches_refused_total", "counter", "Batches that could not be read.",
            [("", "\(region.figures.batchesRefused)")])
        for row in SnapshotMetrics(region.snapshots).rows { add(row.name, row.type, row.help, row.values) }
        if let vectors = region.replica?.vectors {
            add("tideline_edge_snapshot", "gauge", "The snapshot that serves.", [("", "\(vectors.snapshot)")])
            add(
                "tideline_edge_vectors", "gauge", "Vectors that a search can find.",
                [
                    (",in=\"tail\"", "\(vectors.tailRows)"),
                    (",in=\"segments\"", "\(max(0, vectors.rows - vectors.tailRows))"),
                ])
            let facts = vectors.facts
            add(
                "tideline_edge_segment_bytes", "gauge", "What segments take: in memory, and mapped from files.",
                [
                    (",part=\"links\"", "\(facts.linkBytes)"), (",part=\"codes\"", "\(facts.codeBytes)"),
                    (",part=\"floats\"", "\(facts.floatBytes)"), (",part=\"starts\"", "\(facts.startBytes)"),
                    (",part=\"rows\"", "\(facts.rowBytes)"),
                    (",part=\"files\"", "\(facts.fileBytes)"),
                ])
        }
        let visible = region.figures.visible.summary()
        add(
            "tideline_edge_ingest_to_visible_seconds", "gauge", "From ingest to visible here, by quantile.",
            [(0.5, visible.p50), (0.99, visible.p99), (0.999, visible.p999)].map {
                (",quantile=\"\($0.0)\"", "\($0.1 / 1_000_000)")
            })
        let positions = region.positions
        add(
            "tideline_edge_lag_batches", "gauge", "Batches that the log is known to have and this replica has not.",
            positions.enumerated().map {
                let head = status.heads[UInt32($0.offset)] ?? 0
                return (",partition=\"\($0.offset)\"", "\(head > $0.element.seq ? head - $0.element.seq : 0)")
            })
        add(
            StoreMemory.metric, "gauge", StoreMemory.help,
            (region.replica?.view.store.memory.parts ?? []).map {
                (",store=\"view\",part=\"\($0.name)\"", "\($0.bytes)")
            })
        return lines.joined(separator: "\n") + "\n"
    }
}
