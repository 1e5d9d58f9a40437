internal import CChecksum
internal import CFaiss
internal import Foundation

extension Segment {
    /// Makes a segment of rows and writes it to a file, synced; the file is whole or not there.
    ///
    /// - Parameters:
    ///   - rows: of equal ids the newest version stays, of equal versions the later one.
    ///   - vectors: one after another, `plan.dimensions` coordinates each.
    /// - Throws: `.refused` for the first vector with a coordinate that is no number, or of length zero.
    package static func seal(
        _ rows: [SegmentRow], _ vectors: [Float], plan: SegmentPlan, path: String
    ) throws(SegmentError) {
        guard !rows.isEmpty, vectors.count == rows.count * plan.dimensions else {
            throw .input("\(rows.count) rows and \(vectors.count) coordinates of \(plan.dimensions) dimensions")
        }
        let kept = newest(rows)
        var vectors = try arranged(kept, vectors, plan)
        let (nodeOf, nodes) = try grouped(&vectors, count: kept.count, plan.dimensions)
        let unfinished = path + ".unfinished"
        do {
            let order = try built(vectors, nodes, plan, unfinished)
            var number = [UInt32](repeating: 0, count: nodes)
            for (node, group) in order.enumerated() { number[Int(group)] = UInt32(node) }
            let sorted = kept.indices.map { (node: number[Int(nodeOf[$0])], row: rows[kept[$0]]) }
                .sorted { ($0.node, $0.row.id) < ($1.node, $1.row.id) }
            try finish(sorted, nodes: nodes, plan, unfinished)
            guard unsafe rename(unfinished, path) == 0 else {
                throw SegmentError.failed("cannot be renamed to \(path)")
            }
        } catch {
            try? FileManager.default.removeItem(atPath: unfinished)
            throw error as? SegmentError ?? .failed("\(error)")
        }
    }

    /// Whether a segment takes this vector: all of its coordinates are numbers, and its length is not zero.
    package static func takes(_ vector: [Float]) -> Bool {
        unsafe vector.withUnsafeBufferPointer { unsafe VectorTail.refusal(of: $0) } == nil
    }

    /// Indices of the rows that stay.
    private static func newest(_ rows: [SegmentRow]) -> [Int] {
        var places: [UInt64: Int] = Dictionary(minimumCapacity: rows.count)
        for (index, row) in rows.enumerated() {
            if let old = places[row.id], rows[old].version > row.version { continue }
            places[row.id] = index
        }
        if places.count == rows.count { return Array(rows.indices) }
        return places.values.sorted()
    }

    /// The vectors of these rows, checked, for the cosine at length 1.
    private static func arranged(_ kept: [Int], _ vectors: [Float], _ plan: SegmentPlan) throws(SegmentError) -> [Float]
    {
        var result: [Float] = []
        result.reserveCapacity(kept.count * plan.dimensions)
        for index in kept {
            let vector = vectors[index * plan.dimensions..<(index + 1) * plan.dimensions]
            let refusal = unsafe vector.withUnsafeBufferPointer { unsafe VectorTail.refusal(of: $0) }
            if let refusal { throw .refused(row: index, refusal) }
            if plan.metric == .cosine {
                let factor = 1 / vector.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
                for value in vector { result.append(Float(Double(value) * factor)) }
            } else {
                result.append(contentsOf: vector)
            }
        }
        return result
    }

    /// Leaves each vector once. Returns each row's group, and how many there are.
    private static func grouped(
        _ vectors: inout [Float], count: Int, _ dimensions: Int
    ) throws(SegmentError) -> ([UInt32], Int) {
        var groups = [UInt32](repeating: 0, count: count)
        var error = tl_graph_error()
        let total = unsafe Int(tl_graph_group(vectors, UInt32(count), UInt32(dimensions), &groups, &error))
        guard total > 0 else { throw .failed(error.message) }
        if total == count { return (groups, total) }
        var next = 0
        for row in 0..<count where Int(groups[row]) == next {
            for d in 0..<dimensions { vectors[next * dimensions + d] = vectors[row * dimensions + d] }
            next += 1
        }
        vectors.removeLast(vectors.count - total * dimensions)
        return (groups, total)
    }

    private static func built(
        _ vectors: [Float], _ nodes: Int, _ plan: SegmentPlan, _ path: String
    ) throws(SegmentError) -> [UInt32] {
        var order = [UInt32](repeating: 0, count: nodes)
        var error = tl_graph_error()
        var graphPlan = tl_graph_plan(
            dimensions: UInt32(clamping: plan.dimensions), metric: plan.metric.graphMetric,
            links: UInt32(clamping: plan.links), effort: UInt32(clamping: plan.effort),
            links_max: UInt32(clamping: plan.linksMax), threads: UInt32(clamping: plan.threads))
        guard unsafe tl_graph_build(vectors, UInt32(nodes), &graphPlan, path, &order, &error) else {
            throw .failed(error.message)
        }
        return order
    }

    /// Measures the graph, and writes columns and footer behind it.
    private static func finish(
        _ rows: [(node: UInt32, row: SegmentRow)], nodes: Int, _ plan: SegmentPlan, _ path: String
    ) throws {
        var error = tl_graph_error()
        guard let graph = unsafe tl_graph_open(path, plan.metric.graphMetric, false, &error) else {
            throw SegmentError.failed(error.message)
        }
        defer { unsafe tl_graph_close(graph) }
        let calibration = try unsafe SegmentCalibration.measured(
            graph, nodes: nodes, dimensions: plan.dimensions, queries: plan.calibrationQueries, threads: plan.threads)
        var length = 0
        let file = unsafe tl_graph_file(graph, &length)
        var layout = SegmentLayout(
            graphBytes: length, rows: rows.count, nodes: nodes, dimensions: plan.dimensions, metric: plan.metric,
            calibration: calibration)
        let columns = self.columns(rows, layout)
        let crc = unsafe tl_crc32c(0, file, length)
        layout.checksum = unsafe columns.withUnsafeBytes { unsafe tl_crc32c(crc, $0.baseAddress, $0.count) }
        let handle = try FileHandle(forWritingTo: URL(filePath: path))
        defer { try? handle.close() }
        try handle.seekToEnd()
        try handle.write(contentsOf: Data(columns))
        try handle.write(contentsOf: Data(layout.footer))
        try handle.synchronize()
    }

    /// Everything between the graph and the footer.
    private static func columns(_ rows: [(node: UInt32, row: SegmentRow)], _ layout: SegmentLayout) -> [UInt8] {
        let base = layout.graphBytes
        var bytes = [UInt8](repeating: 0, count: layout.footerOffset - base)
        func put<T: BitwiseCopyable>(_ column: SegmentLayout.Column, _ values: [T]) {
            let offset = layout.offset(of: column) - base
            unsafe bytes.withUnsafeMutableBytes { bytes in
                unsafe values.withUnsafeBytes { values in
                    unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[offset..<offset + values.count]).copyMemory(
                        from: values)
                }
            }
        }
        var first = [UInt32](repeating: 0, count: layout.nodes + 1)
        for (node, _) in rows { first[Int(node) + 1] += 1 }
        for node in 0..<layout.nodes { first[node + 1] += first[node] }
        put(.first, first)
        put(.nodes, rows.map(\.node))
        put(.ids, rows.map(\.row.id))
        put(.versions, rows.map(\.row.version))
        put(.times, rows.map(\.row.time))
        put(.scores, rows.map(\.row.score))
        put(.labels, rows.map(\.row.label))
        put(.entities, rows.map(\.row.entity))
        func order<T: Comparable>(_ key: (SegmentRow) -> T) -> [UInt32] {
            let keys = rows.map { key($0.row) }
            return keys.indices.sorted { keys[$0] < keys[$1] }.map { UInt32($0) }
        }
        put(.byId, order(\.id))
        put(.byTime, order(\.time))
        // No number comes last, where no range reaches.
        put(.byScore, order { $0.score.isNaN ? Float.infinity : $0.score })
        put(.byLabel, order(\.label))
        put(.byEntity, order(\.entity))
        return bytes
    }
}

extension Metric {
    var graphMetric: tl_graph_metric {
        switch self {
        case .squaredL2: TL_GRAPH_SQUARED_L2
        case .innerProduct: TL_GRAPH_INNER_PRODUCT
        case .cosine: TL_GRAPH_COSINE
        }
    }
}

extension tl_graph_error {
    var message: String {
        unsafe withUnsafeBytes(of: text) { bytes in
            unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
    }
}

extension VectorFilter {
    var rowFilter: tl_row_filter {
        tl_row_filter(
            time_min: times.lowerBound, time_max: times.upperBound, score_min: scores.lowerBound,
            score_max: scores.upperBound, entity: entity ?? 0, label: label ?? 0,
            any_score: scores == VectorFilter().scores, any_entity: entity == nil, any_label: label == nil)
    }
}
