import Foundation
import Vectors

/// What searches give where the going is rough: identical vectors, deletions, filters. Recall@10 against a comparison with
/// everything, on clustered vectors of 32 coordinates made from a seed; one thread.
struct Tables {
    let count: Int
    let threads: Int
    let path = NSTemporaryDirectory() + "vectors-tables-\(getpid()).segment"
    private var random = SplitMix(state: 7)
    private var centres: [[Float]] = []

    static let dimensions = 32
    static let shares = [0.0001, 0.01, 0.1, 0.5]
    static let efforts: [Float] = [0.95, 0.99]
    static let queries = 500

    init(count: Int, threads: Int) {
        self.count = count
        self.threads = threads
        for _ in 0..<max(10, count / 500) { centres.append((0..<Self.dimensions).map { _ in random.normal() }) }
    }

    /// One line as JSON.
    mutating func run() throws -> [[String: Any]] {
        defer { try? FileManager.default.removeItem(atPath: path) }
        var lines: [[String: Any]] = []
        let identical = try collection(identicalShare: 0.1)
        lines += try measured("10 % identical vectors", identical, VectorFilter())
        let plain = try collection(identicalShare: 0)
        lines += try measured("plain", plain, VectorFilter())
        for (number, share) in Self.shares.enumerated() {
            let from = Int64(Double(count) * 0.3)
            let times = from...from + max(1, Int64(share * Double(count))) - 1
            lines += try measured("time range of \(share * 100) %", plain, VectorFilter(times: times))
            lines += try measured("label of \(share * 100) %", plain, VectorFilter(label: UInt32(number + 1)))
        }
        for id in 0..<count where id % 5 < 3 { plain.delete(UInt64(id)) }
        lines += try measured("60 % deleted", plain, VectorFilter())
        lines.append(try selves(plain))
        return lines
    }

    // MARK: Private

    private mutating func vector() -> [Float] {
        let centre = centres[Int(random.next() % UInt64(centres.count))]
        return centre.map { $0 + 0.35 * random.normal() }
    }

    private mutating func collection(identicalShare: Double) throws -> VectorCollection {
        var plan = SegmentPlan(dimensions: Self.dimensions, metric: .squaredL2)
        plan.threads = threads
        var values: [Float] = []
        values.reserveCapacity(count * Self.dimensions)
        let same = vector()
        for _ in 0..<count { values += Double(random.next() % 1000) < 1000 * identicalShare ? same : vector() }
        let times = (0..<count).map { Int64($0) }.shuffled(using: &random)
        let rows = (0..<count).map { id in
            let chance = Double(random.next() % 100_000) / 100_000
            var (label, sum) = (UInt32(0), 0.0)
            for (number, share) in Self.shares.enumerated() where chance >= sum {
                sum += share
                label = chance < sum ? UInt32(number + 1) : 0
            }
            return SegmentRow(id: UInt64(id), time: times[id], label: label)
        }
        try Segment.seal(rows, values, plan: plan, path: path)
        let tail = VectorTail(dimensions: Self.dimensions, metric: .squaredL2, rowsMax: 1000)
        return VectorCollection(segments: [try Segment(path: path)], tail: tail)
    }

    private mutating func measured(
        _ name: String, _ collection: VectorCollection, _ filter: VectorFilter
    ) throws -> [[String: Any]] {
        let queries = (0..<Self.queries).map { _ in vector() }
        var searcher = CollectionSearcher()
        var truth: [[Neighbour]] = []
        for query in queries {
            truth.append(try collection.search(query, k: 10, filter: filter, effort: .exact, with: &searcher))
        }
        return try Self.efforts.map { effort in
            var best = Double.infinity
            var recall = 0.0
            for _ in 0..<3 {
                var found: [[Neighbour]] = []
                let start = DispatchTime.now().uptimeNanoseconds
                for query in queries {
                    found.append(
                        try collection.search(query, k: 10, filter: filter, effort: .recall(effort), with: &searcher))
                }
                best = min(best, Double(DispatchTime.now().uptimeNanoseconds - start) / 1e9)
                recall = Self.recall(found, truth)
            }
            return [
                "table": name, "asked": Double(effort), "recall": recall,
                "queriesPerSecond": Double(queries.count) / best,
            ]
        }
    }

    /// By distance: of equally near ones any will do.
    private static func recall(_ found: [[Neighbour]], _ truth: [[Neighbour]]) -> Double {
        var hits = 0
        var all = 0
        for (found, truth) in zip(found, truth) {
            guard let worst = truth.last?.distance else { continue }
            all += truth.count
            hits += found.prefix(truth.count).count { $0.distance <= worst + abs(worst) * 1e-6 }
        }
        return all == 0 ? 1 : Double(hits) / Double(all)
    }

    private func selves(_ collection: VectorCollection) throws -> [String: Any] {
        let segment = collection.segments[0].segment
        var searcher = CollectionSearcher()
        var asked = 0
        var first = 0
        for row in stride(from: 0, to: segment.count, by: max(1, segment.count / 5000)) {
            let id = segment.row(row).id
            guard collection.contains(id) else { continue }
            asked += 1
            let found = try collection.search(
                segment.vector(row), k: 1, effort: .recall(0.99), with: &searcher)
            if found.first?.row.id == id { first += 1 }
        }
        return ["table": "live vectors that find themselves first, 60 % deleted", "of": asked, "first": first]
    }
}

/// A random generator that is the same everywhere.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = (state ^ state >> 30) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ mixed >> 27) &* 0x94D0_49BB_1331_11EB
        return mixed ^ mixed >> 31
    }

    /// By the sum of twelve.
    mutating func normal() -> Float {
        var sum: Float = -6
        for _ in 0..<12 { sum += Float(next() >> 40) / 16_777_216 }
        return sum
    }
}
