import Changes
import Features
import Replicate
import Scoring
import Storage
import Vectors

/// Opens a snapshot's segments from a store, checks each, and puts them into a replica.
///
/// In this order, and the old snapshot serves until the last step: every file opened and its checksum held against its
/// bytes; dimensions, metric and rows held against what this replica has and what the manifest says; neighbours of sampled
/// vectors held against an exact search; then one reference is swapped. Segments that the replica has open already are
/// taken over as they are.
struct SnapshotLoader: Sendable {
    let store: SnapshotStore
    /// The least share of true neighbours that the sampled vectors must find.
    var recallMin: Float = 0.9
    static let recallQueries = 32
    var variant = SnapshotVariant.sound

    /// What a replica of that log takes.
    static func terms(
        _ pipeline: Pipeline, _ model: ScoringModel?, partitions: Int, lineage: Lineage
    ) -> SnapshotTerms {
        var terms = SnapshotTerms(
            pipeline: pipeline.name, schema: pipeline.schema, model: model?.identity ?? 0,
            dimensions: pipeline.vectorDimension(model), metric: pipeline.embedding.metric.rawValue,
            partitions: partitions)
        terms.lineage = lineage
        return terms
    }

    static func terms(for replica: Replica, model: ScoringModel?) -> SnapshotTerms {
        var terms = terms(replica.pipeline, model, partitions: replica.partitions, lineage: replica.lineage)
        // It follows the log: the tables are none of its business.
        terms.parts = .segments
        return terms
    }

    /// Opens what the replica has not open. Blocking: reads each new file once.
    func open(
        _ manifest: SnapshotManifest, for vectors: ReplicaVectors
    ) throws -> [[ReplicaVectors.Part]] {
        let known = vectors.shipped
        return try vectors.pipeline.tenants.enumerated().map { tenant, name in
            try manifest.segments.filter { $0.tenant == name }.map { segment in
                if let part = known[tenant].first(where: { $0.file == segment.file.sha256 }) { return part }
                return try ReplicaVectors.Part(
                    file: segment.file.sha256, live: LiveSegment(open(segment, for: vectors)))
            }
        }
    }

    private func open(_ described: SnapshotSegment, for vectors: ReplicaVectors) throws -> Segment {
        let segment: Segment
        do {
            segment = try Segment(path: store.path(of: described.file), resident: false)
        } catch {
            throw SnapshotRefusal(.damaged, "segment \(described.file.sha256): \(error)")
        }
        guard segment.dimensions == vectors.dimensions, segment.metric == vectors.metric else {
            throw SnapshotRefusal(
                .dimension,
                "segment \(described.file.sha256) has \(segment.dimensions) dimensions by \(segment.metric), this region "
                    + "\(vectors.dimensions) by \(vectors.metric)")
        }
        guard segment.count == described.rows else {
            throw SnapshotRefusal(
                .size, "segment \(described.file.sha256) has \(segment.count) rows, not \(described.rows)")
        }
        let recall = Self.recall(of: segment)
        guard recall >= recallMin else {
            throw SnapshotRefusal(
                .recall,
                "segment \(described.file.sha256) finds \(recall) of the true neighbours, under \(recallMin)")
        }
        return segment
    }

    /// The share of the ten nearest that a graph search finds of sampled vectors of the segment; each must find itself.
    static func recall(of segment: Segment) -> Float {
        var searcher = SegmentSearcher()
        let queries = min(recallQueries, segment.count)
        var found = 0
        var wanted = 0
        for index in 0..<queries {
            let vector = segment.vector(index * segment.count / queries)
            var exact: [Neighbour] = []
            var graph: [Neighbour] = []
            do {
                try segment.search(vector, k: 10, effort: .exact, with: &searcher, into: &exact)
                try segment.search(vector, k: 10, effort: .recall(0.95), with: &searcher, into: &graph)
            } catch {
                return 0
            }
            // By distance: of equally near ones any will do.
            let worst = exact.last?.distance ?? 0
            wanted += exact.count
            found += graph.count { $0.distance <= worst + abs(worst) * 1e-6 }
        }
        return wanted == 0 ? 0 : Float(found) / Float(wanted)
    }

    /// Puts opened segments in place.
    func install(_ parts: [[ReplicaVectors.Part]], of manifest: SnapshotManifest, into replica: Replica) throws {
        try replica.vectors.install(
            parts, snapshot: manifest.number,
            sealed: variant == .sealedToFrontier
                ? .init(offsets: replica.frontier.map { $0?.endOffset ?? 0 })
                : .init(offsets: manifest.positions.map(\.endOffset), seqs: manifest.positions.map(\.seq)),
            deleted: { variant == .forgetsDeleted ? [] : try replica.deletedRows($0) },
            unsealed: { try replica.forEachUnsealed($0, $1, $2) })
        try replica.forgetDeletedRows(oldestKept: store.oldestNumber(of: manifest.lineage) ?? manifest.number)
    }

    /// What the store served last, into a replica that was just opened; nothing where there is none of its log.
    func restore(into replica: Replica, model: ScoringModel?) throws {
        guard let signed = try store.pinnedName.flatMap({ try? store.load($0) }) ?? store.current,
            signed.manifest.lineage == replica.lineage
        else { return }
        try Self.terms(for: replica, model: model).check(signed.manifest)
        try install(open(signed.manifest, for: replica.vectors), of: signed.manifest, into: replica)
    }
}
