internal import CForest

/// Owns a compiled ensemble.
///
/// `@unchecked Sendable`: the C side never changes an ensemble once it is built: every call takes it as const, and all
/// working memory is the caller's scratch (CForest.h).
@safe final class EnsembleHandle: @unchecked Sendable {
    let pointer: OpaquePointer

    /// Compiles the trees, or takes the weights, of a checked model.
    init(_ model: XGBoostModel) throws(ModelError) {
        let built = unsafe model.booster == .gblinear ? Self.linear(model) : Self.trees(model)
        guard let built = unsafe built else { throw ModelError(.unreadable, "no memory for the compiled model") }
        unsafe pointer = built
    }

    deinit { unsafe cforest_free(pointer) }

    private static func linear(_ model: XGBoostModel) -> OpaquePointer? {
        let split = model.featureCount * model.groupCount
        let weights = Array(model.weights[..<split])
        let bias = Array(model.weights[split...])
        return unsafe cforest_build_linear(
            Int32(model.featureCount), Int32(model.groupCount), model.objective.link, model.baseMargins, bias, weights)
    }

    private static func trees(_ model: XGBoostModel) -> OpaquePointer? {
        let trees = model.trees
        var source = unsafe cforest_source()
        unsafe source.feature_count = Int32(model.featureCount)
        unsafe source.group_count = Int32(model.groupCount)
        unsafe source.link = model.objective.link
        unsafe source.tree_count = Int32(trees.count)
        unsafe source.set_count = Int32(trees.setCount)
        return unsafe model.baseMargins.withUnsafeBufferPointer { base in
            unsafe trees.first.withUnsafeBufferPointer { first in
                unsafe trees.group.withUnsafeBufferPointer { group in
                    unsafe withNodes(trees, &source) { source in
                        unsafe source.base = base.baseAddress
                        unsafe source.first = first.baseAddress
                        unsafe source.tree_group = group.baseAddress
                        return unsafe cforest_build(&source)
                    }
                }
            }
        }
    }

    private static func withNodes(
        _ trees: TreeArrays, _ source: inout cforest_source, _ build: (inout cforest_source) -> OpaquePointer?
    ) -> OpaquePointer? {
        unsafe trees.left.withUnsafeBufferPointer { left in
            unsafe trees.right.withUnsafeBufferPointer { right in
                unsafe trees.feature.withUnsafeBufferPointer { feature in
                    unsafe trees.value.withUnsafeBufferPointer { value in
                        unsafe source.left = left.baseAddress
                        unsafe source.right = right.baseAddress
                        unsafe source.feature = feature.baseAddress
                        unsafe source.value = value.baseAddress
                        return unsafe withDirections(trees, &source, build)
                    }
                }
            }
        }
    }

    private static func withDirections(
        _ trees: TreeArrays, _ source: inout cforest_source, _ build: (inout cforest_source) -> OpaquePointer?
    ) -> OpaquePointer? {
        unsafe trees.defaultLeft.withUnsafeBufferPointer { directions in
            unsafe trees.hessian.withUnsafeBufferPointer { hessian in
                unsafe trees.set.withUnsafeBufferPointer { set in
                    unsafe trees.setFirst.withUnsafeBufferPointer { setFirst in
                        unsafe trees.setWords.withUnsafeBufferPointer { words in
                            unsafe source.default_left = directions.baseAddress
                            unsafe source.hessian = hessian.baseAddress
                            unsafe source.set = set.baseAddress
                            unsafe source.set_first = setFirst.baseAddress
                            unsafe source.set_words = words.baseAddress
                            return unsafe build(&source)
                        }
                    }
                }
            }
        }
    }
}
