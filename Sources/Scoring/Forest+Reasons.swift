internal import CForest

/// What one feature did to a row's margin.
package struct Reason: Sendable, Equatable {
    /// Index in the model's order.
    package let feature: Int
    /// The feature's name; `f3` where the model has none, as XGBoost calls it.
    package let name: String
    /// Change of the expected margin along the row's paths, signed.
    package let contribution: Float
}

extension Forest {
    /// The `top` features with the largest contributions to the row's margin, largest magnitude first.
    ///
    /// Method of Saabas: at each split of a path the expected leaf value changes; the change belongs to the split's
    /// feature. Expected values are weighted by cover (`sum_hessian`), as in XGBoost's `approx_contribs`. Of several
    /// margins the largest is explained, or the one asked for. Features without any contribution are left out.
    /// Allocates: not for every event.
    package func reasons(row: UnsafePointer<Float>, top: Int, output: Int? = nil) -> [Reason] {
        let group = unsafe output ?? largestMargin(row)
        precondition(group >= 0 && group < marginCount, "no such output")
        var contributions = [Float](repeating: 0, count: featureCount + 1)
        unsafe cforest_contributions(ensemble.pointer, row, Int32(group), &contributions)
        let ranked = contributions.indices.dropLast().filter { contributions[$0] != 0 }.sorted {
            let (a, b) = (abs(contributions[$0]), abs(contributions[$1]))
            return a == b ? $0 < $1 : a > b
        }
        return ranked.prefix(max(0, top)).map { feature in
            let name = featureNames.isEmpty ? "f\(feature)" : featureNames[feature]
            return Reason(feature: feature, name: name, contribution: contributions[feature])
        }
    }

    private func largestMargin(_ row: UnsafePointer<Float>) -> Int {
        guard marginCount > 1 else { return 0 }
        let scratch = ForestScratch(for: self)
        var margins = [Float](repeating: 0, count: marginCount)
        unsafe cforest_margins(ensemble.pointer, scratch.pointer, row, 1, featureCount, &margins)
        return margins.indices.max { margins[$0] < margins[$1] } ?? 0
    }
}
