internal import CFaiss

/// Measures what efforts give: vectors of the graph are searched for as if they were not in it, and what is found is held
/// against a comparison with everything. What a caller asks for as recall becomes γ by this table.
enum SegmentCalibration {
    /// Below 0 a search stops before its k-th nearest is sure, which is enough where neighbours stand in clumps.
    static let gammas: [Float] = [
        -0.3, -0.2, -0.1, -0.05, 0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5,
    ]
    /// A shorter list is kept sorted and compared faster, and lets rounding err more: what each gives is measured, too. Eight are
    /// a register.
    static let shortlists = [16, 24]
    private static let k = 10
    private static let uncappedExpansions = 3000
    private static let enough: Float = 0.998

    /// A few queries would go over much of the graph at any γ: they are stopped at a few times the mean.
    static func expansionsMax(mean: Float) -> Int { 32 + Int(4 * mean) }

    static func measured(
        _ graph: OpaquePointer, nodes: Int, dimensions: Int, queries: Int, threads: Int
    ) throws(SegmentError) -> [CalibratedEffort] {
        let count = min(queries, nodes / 4)
        guard count > 0, nodes > 2 * k else { return [] }
        let sampled = (0..<count).map { UInt32($0 * nodes / count + nodes / (2 * count)) }
        var truth = [tl_found](repeating: tl_found(), count: count * k)
        var error = tl_graph_error()
        guard
            unsafe tl_graph_truth(graph, sampled, UInt32(count), UInt32(k), UInt32(max(1, threads)), &truth, &error)
        else { throw .failed(error.message) }
        let searcher = SegmentSearcher()
        var vectors = [Float](repeating: 0, count: count * dimensions)
        unsafe vectors.withUnsafeMutableBufferPointer { vectors in
            for (index, node) in sampled.enumerated() {
                unsafe tl_graph_vector(graph, node, vectors.baseAddress! + index * dimensions)
            }
        }
        return shortlists.flatMap { shortlist in
            var table: [CalibratedEffort] = []
            for gamma in gammas {
                let free = run(gamma, shortlist, uncappedExpansions)
                let entry = run(gamma, shortlist, expansionsMax(mean: free.expansions))
                // A wider search is no worse; what seems so is the sample.
                let before = table.last?.recall ?? 0
                let recall = max(entry.recall, before)
                table.append(
                    CalibratedEffort(gamma: gamma, recall: recall, expansions: free.expansions, shortlist: shortlist))
                // What a short list costs no wider search brings back.
                if recall >= enough || shortlist < shortlists.last! && gamma > 0 && recall - before < 0.001 { break }
            }
            return table
        }

        func run(_ gamma: Float, _ shortlist: Int, _ expansionsMax: Int) -> (recall: Float, expansions: Float) {
            var hits = 0
            var expansions = 0
            var found = [tl_found](repeating: tl_found(), count: k)
            for (index, node) in sampled.enumerated() {
                var seek = unsafe tl_seek(
                    k: UInt32(k), gamma: gamma, expansions_max: UInt32(expansionsMax), rerank: UInt32(shortlist),
                    passes: nil, context: nil, excluded: node, rows: nil)
                let kept = unsafe vectors.withUnsafeBufferPointer { vectors in
                    unsafe tl_graph_search(
                        graph, searcher.seeker, vectors.baseAddress! + index * dimensions, &seek, &found)
                }
                expansions += searcher.expansions
                // By distance: of equally near ones any will do.
                let worst = truth[index * k + k - 1].distance
                hits += found.prefix(Int(kept == .max ? 0 : kept)).count { $0.distance <= worst + abs(worst) * 1e-6 }
            }
            return (Float(hits) / Float(count * k), Float(expansions) / Float(count))
        }
    }
}
