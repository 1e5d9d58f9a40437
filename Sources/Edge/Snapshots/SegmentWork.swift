import Changes
import Storage
import Vectors

/// Makes segments of what a replica holds: of a tail, or of segments that become one. Blocking, for seconds to minutes; it
/// runs on a thread of its own at low priority, never on one that applies or answers.
struct SegmentWork: Sendable {
    let plan: SegmentPlan

    init(_ vectors: ReplicaVectors, threads: Int = 1) {
        var plan = SegmentPlan(dimensions: vectors.dimensions, metric: vectors.metric)
        plan.threads = threads
        self.plan = plan
    }

    /// Seals a tail's rows, or those of a piece. Returns how many there were; for none no file is made.
    func seal(
        _ contents: TailContents, of piece: ReplicaVectors.Sealed? = nil, path: String
    ) throws(SegmentError) -> Int {
        var rows: [SegmentRow] = []
        var vectors: [Float] = []
        unsafe contents.forEach { row, vector in
            if let piece, !piece.holds(row.id) { return }
            rows.append(
                SegmentRow(id: row.id, time: row.time, score: row.score, label: row.label, entity: row.entity))
            unsafe vectors.append(contentsOf: vector)
        }
        return try seal(rows, vectors, path)
    }

    /// Seals a tenant's rows of the store that no segment holds and `piece` does, for a tail that was too short for them.
    func seal(
        unsealed replica: Replica, tenant: Int, of piece: ReplicaVectors.Sealed, path: String
    ) throws -> Int {
        var rows: [SegmentRow] = []
        var vectors: [Float] = []
        try replica.forEachUnsealed(tenant, replica.vectors.sealed) { key, row in
            guard piece.holds(key.place), let described = replica.vectors.describe(row.record, key) else { return }
            let floats = unsafe (0..<row.vector.count / 4).map { place in
                unsafe row.vector.loadUnaligned(fromByteOffset: place * 4, as: Float.self)
            }
            guard floats.count == plan.dimensions, Segment.takes(floats) else { return }
            rows.append(described)
            vectors.append(contentsOf: floats)
        }
        return try seal(rows, vectors, path)
    }

    /// Seals the live rows of segments as one. Returns how many there were; for none no file is made.
    func merge(_ segments: [LiveSegment], path: String) throws(SegmentError) -> Int {
        var rows: [SegmentRow] = []
        var vectors: [Float] = []
        let count = segments.reduce(0) { $0 + $1.count }
        rows.reserveCapacity(count)
        vectors.reserveCapacity(count * plan.dimensions)
        for segment in segments {
            segment.forEach { row, vector in
                rows.append(row)
                vectors.append(contentsOf: vector)
            }
        }
        return try seal(rows, vectors, path)
    }

    private func seal(_ rows: [SegmentRow], _ vectors: [Float], _ path: String) throws(SegmentError) -> Int {
        guard !rows.isEmpty else { return 0 }
        try Segment.seal(rows, vectors, plan: plan, path: path)
        return rows.count
    }
}

/// Which segments become one: tiers, each so many times the size of the one below.
///
/// Method: size-tiered merging. A row is built once for each tier that it passes; a search looks into fewer than
/// `fanOut` segments a tier.
struct MergePlan: Sendable {
    var fanOut = 8
    /// A segment with a larger share of dead rows is built anew.
    var deadShareMax = 0.2

    /// Indices of the segments to merge next, in order; empty where there is nothing to do.
    func next(_ segments: [(rows: Int, dead: Int)], sealRows: Int) -> [Int] {
        if let rotten = segments.firstIndex(where: { Double($0.dead) > deadShareMax * Double($0.rows) }) {
            return [rotten]
        }
        func tier(_ rows: Int) -> Int {
            var tier = 0
            var bound = max(1, sealRows) * fanOut / 2
            while rows >= bound {
                tier += 1
                bound *= fanOut
            }
            return tier
        }
        let tiers = segments.map { tier($0.rows - $0.dead) }
        for level in Set(tiers).sorted() {
            let members = tiers.indices.filter { tiers[$0] == level }
            if members.count >= fanOut { return members }
        }
        return []
    }
}
