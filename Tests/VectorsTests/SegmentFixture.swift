import Foundation
import Vectors

/// Segments in a directory of their own, and what they should find.
final class SegmentFixture {
    let folder: URL

    init() throws {
        folder = FileManager.default.temporaryDirectory.appending(path: "segments-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(at: folder) }

    func path(_ name: String = "a.segment") -> String { folder.appending(path: name).path }

    /// Points around centres, as real embeddings stand.
    static func clustered(_ count: Int, _ dimensions: Int, seed: UInt64, centres: Int = 20) -> [[Float]] {
        var random = Seeded(seed)
        let middles = (0..<centres).map { _ in random.vector(dimensions) }
        return (0..<count).map { _ in
            let middle = middles[Int.random(in: 0..<centres, using: &random)]
            return middle.map { $0 + Float.random(in: -0.5...0.5, using: &random) }
        }
    }

    static func rows(_ count: Int, seed: UInt64 = 9) -> [SegmentRow] {
        var random = Seeded(seed)
        return (0..<count).map {
            SegmentRow(
                id: UInt64($0) &* 2_654_435_761 % 1_000_003, version: 1, time: Int64($0),
                score: Float.random(in: 0...1, using: &random), label: UInt32($0 % 7),
                entity: UInt64.random(in: 0..<UInt64(max(1, count / 10)), using: &random))
        }
    }

    /// Seals with the least work that still gives a good graph, and opens.
    func segment(
        _ rows: [SegmentRow], _ vectors: [[Float]], _ metric: Metric, name: String = "a.segment", resident: Bool = true,
        calibrate: Int = 64
    ) throws -> Segment {
        var plan = SegmentPlan(dimensions: vectors[0].count, metric: metric)
        plan.effort = 64
        plan.calibrationQueries = calibrate
        try Segment.seal(rows, vectors.flatMap { $0 }, plan: plan, path: path(name))
        return try Segment(path: path(name), resident: resident)
    }

    /// The plain thing.
    static func model(_ rows: [SegmentRow], _ vectors: [[Float]], _ metric: Metric) -> TailModel {
        var model = TailModel(metric: metric)
        for (row, vector) in zip(rows, vectors) {
            model.put(
                VectorRow(id: row.id, time: row.time, score: row.score, entity: row.entity, label: row.label), vector)
        }
        return model
    }
}

extension Segment {
    func search(
        _ query: [Float], k: Int, filter: VectorFilter = VectorFilter(), effort: SearchEffort = .recall(0.95)
    ) throws -> [Neighbour] {
        var searcher = SegmentSearcher()
        var results: [Neighbour] = []
        try search(query, k: k, filter: filter, effort: effort, with: &searcher, into: &results)
        return results
    }
}

/// How many of the expected are found; equally near ones count.
func recall(_ found: [Neighbour], _ expected: [Neighbour]) -> Double {
    guard let worst = expected.last?.distance else { return found.isEmpty ? 1 : 0 }
    let near = found.count { $0.distance <= worst + abs(worst) * 1e-5 + 1e-6 }
    return Double(min(near, expected.count)) / Double(expected.count)
}
