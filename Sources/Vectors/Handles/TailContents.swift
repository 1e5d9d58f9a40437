/// What a tail held after one change: rows that are read later are those of that moment, whatever is written meanwhile.
package struct TailContents: Sendable {
    let chunks: [VectorChunk]
    let sequence: UInt64
    package let dimensions: Int

    /// Visits each row with its vector (for the cosine at length 1), in the order in which they came.
    package func forEach<Failure: Error>(
        _ visit: (VectorRow, UnsafeBufferPointer<Float>) throws(Failure) -> Void
    ) throws(Failure) {
        var scratch = [Float](repeating: 0, count: dimensions)
        for chunk in chunks {
            for slot in 0..<Int(chunk.used) where chunk.wasLive(slot, at: sequence) {
                unsafe scratch.withUnsafeMutableBufferPointer { scratch in
                    if let base = scratch.baseAddress { unsafe chunk.copyVector(slot, to: base) }
                }
                try unsafe scratch.withUnsafeBufferPointer { vector throws(Failure) in
                    try unsafe visit(chunk.row(slot), vector)
                }
            }
        }
    }
}
