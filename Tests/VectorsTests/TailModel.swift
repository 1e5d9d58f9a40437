import Vectors

/// The plain thing: a dictionary and a sort.
struct TailModel {
    let metric: Metric
    var rows: [UInt64: (row: VectorRow, vector: [Float])] = [:]

    func search(_ query: [Float], k: Int, filter: VectorFilter = VectorFilter()) -> [Neighbour] {
        let query = metric == .cosine ? Self.unit(query) : query
        return Array(
            rows.values.filter { entry in
                filter.times.contains(entry.row.time) && filter.scores.contains(entry.row.score)
                    && entry.row.flags & filter.flags == filter.flags
                    && (filter.entity ?? entry.row.entity) == entry.row.entity
                    && (filter.label ?? entry.row.label) == entry.row.label
            }
            .map { Neighbour(row: $0.row, distance: distance(query, $0.vector)) }
            .sorted { ($0.distance, $0.row.id) < ($1.distance, $1.row.id) }
            .prefix(k))
    }

    mutating func put(_ row: VectorRow, _ vector: [Float]) {
        rows[row.id] = (row, metric == .cosine ? Self.unit(vector) : vector)
    }

    static func unit(_ vector: [Float]) -> [Float] {
        let factor = 1 / vector.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
        return vector.map { Float(Double($0) * factor) }
    }

    /// In the order in which the kernels sum, so that equality can be asked for to the bit.
    private func distance(_ a: [Float], _ b: [Float]) -> Float {
        var sums: [Float] = [0, 0, 0, 0]
        for index in a.indices {
            if metric == .innerProduct {
                sums[index % 4] += a[index] * b[index]
            } else {
                let difference = b[index] - a[index]
                sums[index % 4] += difference * difference
            }
        }
        let sum = (sums[0] + sums[1]) + (sums[2] + sums[3])
        return switch metric {
        case .squaredL2: sum
        case .innerProduct: -sum
        case .cosine: sum / 2
        }
    }
}

/// SplitMix64: the same numbers for the same seed, everywhere.
struct Seeded: RandomNumberGenerator {
    private var state: UInt64

    init(_ seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// Coordinates of few values when `coarse`, so that distances are often equal.
    mutating func vector(_ dimensions: Int, coarse: Bool = false) -> [Float] {
        while true {
            let vector = (0..<dimensions).map { _ in
                coarse ? Float(Int.random(in: -2...2, using: &self)) : Float.random(in: -1...1, using: &self)
            }
            if vector.contains(where: { $0 != 0 }) { return vector }
        }
    }
}
