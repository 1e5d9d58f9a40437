internal import CForest

/// Working memory for one forest on one thread: make it once, pass it to every call.
@safe package final class ForestScratch {
    let ensemble: EnsembleHandle
    let pointer: OpaquePointer

    package init(for forest: Forest) {
        ensemble = forest.ensemble
        guard let pointer = unsafe cforest_scratch_create(forest.ensemble.pointer) else {
            preconditionFailure("no memory for the scratch of a model")
        }
        unsafe self.pointer = pointer
    }

    deinit { unsafe cforest_scratch_free(pointer) }
}

@available(*, unavailable)
extension ForestScratch: Sendable {}
