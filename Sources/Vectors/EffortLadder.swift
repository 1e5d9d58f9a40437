/// The cheapest effort for each recall that may be asked for, in steps of half a percent, from a segment's calibration: made
/// once when it is opened, so that a query finds its own by one index.
struct EffortLadder: Sendable {
    struct Rung: Sendable, Equatable {
        var gamma: Float
        var expansionsMax: Int
        /// How many of the nearest by code are kept where 10 are asked for.
        var shortlist: Int
    }

    private static let steps = 200
    private let rungs: [Rung?]

    init(_ calibration: [CalibratedEffort]) {
        let tables = Dictionary(grouping: calibration, by: \.shortlist).values
        rungs = (0...Self.steps).map { step in
            let recall = Float(step) / Float(Self.steps)
            return tables.compactMap { Self.least(of: $0, recall) }.min { Self.cost($0) < Self.cost($1) }.map {
                Rung(
                    gamma: $0.gamma, expansionsMax: SegmentCalibration.expansionsMax(mean: $0.expansions),
                    shortlist: $0.shortlist)
            }
        }
    }

    /// `nil` where nothing gave that.
    subscript(recall: Float) -> Rung? {
        // What differs from a step by less than a float's rounding is that step.
        let step = (recall * Float(Self.steps) - 1e-3).rounded(.up)
        return step >= 0 ? step <= Float(Self.steps) ? rungs[Int(step)] : nil : rungs[0]
    }

    /// What a search takes, in expansions: a place of the shortlist costs a fifth of one. (Measured: docs/vectors.md.)
    private static func cost(_ effort: CalibratedEffort) -> Float {
        effort.expansions + Float(effort.shortlist) / 5
    }

    /// The effort between an entry that is enough and the one before, which is not: as far as the recall that is asked for,
    /// and a tenth of what is missing to 1 farther, about one standard error of 256 queries.
    private static func least(of table: [CalibratedEffort], _ recall: Float) -> CalibratedEffort? {
        guard let index = table.firstIndex(where: { $0.recall >= recall }) else { return nil }
        guard index > 0 else { return table[index] }
        let (low, high) = (table[index - 1], table[index])
        let wanted = recall + (1 - recall) / 10
        let part = min(1, max(0, (wanted - low.recall) / max(1e-6, high.recall - low.recall)))
        return CalibratedEffort(
            gamma: low.gamma + part * (high.gamma - low.gamma), recall: recall,
            expansions: low.expansions + part * (high.expansions - low.expansions), shortlist: high.shortlist)
    }
}
