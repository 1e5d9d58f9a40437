private import CFaiss
private import CVectors

/// The forms of the scan and of the graph's search.
package enum VectorKernel: UInt32, Sendable, CaseIterable, Comparable {
    case scalar, avx2, avx512

    package static func < (a: VectorKernel, b: VectorKernel) -> Bool { a.rawValue < b.rawValue }

    /// The fastest form that this machine runs.
    package static var best: VectorKernel { VectorKernel(rawValue: tl_vectors_best_kernel().rawValue) ?? .scalar }

    /// The form in use, in the whole process.
    package static var current: VectorKernel { VectorKernel(rawValue: tl_vectors_kernel().rawValue) ?? .scalar }

    /// Takes this form from now on, for tests; false when the machine can't run it.
    @discardableResult
    package func use() -> Bool {
        tl_vectors_use_kernel(tl_kernel(rawValue: rawValue))
            && tl_graph_use_kernel(tl_graph_kernel(rawValue: rawValue))
    }
}
