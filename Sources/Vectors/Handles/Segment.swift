internal import CChecksum
internal import CFaiss

/// Vectors that no longer change: an HNSW graph that FAISS can open, and the columns that filters read, in one file.
///
/// Any number of threads search it at once, each with a searcher of its own; a search starts no thread and waits for
/// nobody. The memory goes with the last reference. The file must not change while a segment is open: it is mapped.
///
/// `@unchecked Sendable`: nothing of it is written after `init`, and CFaiss reads a graph from any number of threads.
@safe package final class Segment: @unchecked Sendable {
    package let dimensions: Int
    package let metric: Metric
    package let count: Int
    /// What each effort gave when it was sealed: by shortlist, the least first.
    package let calibration: [CalibratedEffort]
    private let ladder: EffortLadder
    let layout: SegmentLayout
    let graph: OpaquePointer
    let columns: tl_columns
    private let file: UnsafePointer<UInt8>
    private let rows: UnsafeMutablePointer<tl_row>
    /// Row i is node i's: no vector is there twice.
    private let isOneToOne: Bool

    /// Searching so few vectors one by one is as fast as over the graph.
    private static let scannedNodesMax = 2000

    /// Opens a segment and checks all of it.
    ///
    /// - Parameter resident: whether the vectors are copied into memory. They may stay mapped from the file: a search
    ///   reads codes and links in memory, and compares the nearest again by their vectors.
    package init(path: String, resident: Bool = true) throws(SegmentError) {
        var error = tl_graph_error()
        guard let layout = Self.layout(path) else { throw .damaged("no segment, or cut off") }
        let length = layout.fileBytes
        guard let graph = unsafe tl_graph_open(path, layout.metric.graphMetric, resident, &error) else {
            throw .damaged(error.message)
        }
        let facts = unsafe tl_graph_describe(graph)
        var mapped = 0
        let file = unsafe tl_graph_file(graph, &mapped)
        let checksum = unsafe mapped == length ? tl_crc32c(0, file, layout.footerOffset) : ~layout.checksum
        guard let file = unsafe file, layout.nodes == Int(facts.nodes),
            layout.dimensions == Int(facts.dimensions), layout.graphBytes == Int(facts.file_bytes),
            layout.checksum == checksum
        else {
            unsafe tl_graph_close(graph)
            throw .damaged("the checksum is another")
        }
        unsafe self.graph = graph
        unsafe self.file = file
        self.layout = layout
        dimensions = layout.dimensions
        self.metric = layout.metric
        count = layout.rows
        calibration = layout.calibration
        ladder = EffortLadder(layout.calibration)
        func start<T>(_ column: SegmentLayout.Column, _ type: T.Type) -> UnsafePointer<T> {
            unsafe UnsafeRawPointer(file + layout.offset(of: column)).assumingMemoryBound(to: T.self)
        }
        isOneToOne = layout.nodes == layout.rows
        var columns = unsafe tl_columns(
            first: start(.first, UInt32.self), times: start(.times, Int64.self), scores: start(.scores, Float.self),
            labels: start(.labels, UInt32.self), entities: start(.entities, UInt64.self), dead: nil)
        unsafe self.columns = columns
        guard let rows = unsafe tl_rows_make(&columns, start(.ids, UInt64.self), UInt32(layout.rows)) else {
            unsafe tl_graph_close(graph)
            throw .failed("no memory for \(layout.rows) rows")
        }
        unsafe self.rows = rows
    }

    deinit {
        unsafe tl_rows_free(rows, UInt32(count))
        unsafe tl_graph_close(graph)
    }

    private static func layout(_ path: String) -> SegmentLayout? {
        for version in SegmentLayout.Version.allCases {
            var footer = [UInt8](repeating: 0, count: version.footerBytes)
            let length = unsafe Int(tl_file_end(path, &footer, footer.count))
            if let layout = SegmentLayout(footer: footer, fileBytes: length) { return layout }
        }
        return nil
    }

    package var facts: SegmentFacts {
        let graph = unsafe tl_graph_describe(graph)
        var facts = SegmentFacts()
        facts.rows = count
        facts.nodes = layout.nodes
        facts.linkBytes = Int(graph.link_bytes)
        facts.codeBytes = Int(graph.code_bytes)
        facts.floatBytes = Int(graph.float_bytes)
        facts.startBytes = Int(graph.entry_bytes)
        facts.rowBytes = count * MemoryLayout<tl_row>.stride
        facts.columnBytes = layout.columnBytes
        facts.fileBytes = layout.fileBytes
        return facts
    }

    // MARK: Rows

    package func row(_ index: Int) -> SegmentRow {
        precondition(index >= 0 && index < count, "no such row")
        let row = unsafe rows[index]
        return SegmentRow(
            id: row.id, version: version(index), time: row.time, score: row.score, label: row.label, entity: row.entity)
    }

    /// The vector of a row; for the cosine at length 1.
    package func vector(_ index: Int) -> [Float] {
        precondition(index >= 0 && index < count, "no such row")
        return unsafe [Float](unsafeUninitializedCapacity: dimensions) { vector, count in
            unsafe tl_graph_vector(graph, column(.nodes, UInt32.self)[index], vector.baseAddress)
            count = dimensions
        }
    }

    /// The row of an id.
    package func find(_ id: UInt64) -> Int? {
        let ids = unsafe column(.ids, UInt64.self)
        let order = unsafe column(.byId, UInt32.self)
        let place = partition { unsafe ids[Int(order[$0])] < id }
        guard place < count else { return nil }
        let row = unsafe Int(order[place])
        return unsafe ids[row] == id ? row : nil
    }

    /// Visits the rows that are older than `time`, the oldest first.
    func forEachRow(before time: Int64, _ visit: (Int) -> Void) {
        let order = unsafe column(.byTime, UInt32.self)
        let end = partition { unsafe columns.times[Int(order[$0])] < time }
        for place in 0..<end { unsafe visit(Int(order[place])) }
    }

    func version(_ row: Int) -> UInt64 { unsafe column(.versions, UInt64.self)[row] }

    private func column<T>(_ column: SegmentLayout.Column, _ type: T.Type) -> UnsafePointer<T> {
        unsafe UnsafeRawPointer(file + layout.offset(of: column)).assumingMemoryBound(to: T.self)
    }

    /// The first place for which `isBefore` is false, in rows of which it is true first and then false.
    private func partition(_ isBefore: (Int) -> Bool) -> Int {
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if isBefore(middle) { low = middle + 1 } else { high = middle }
        }
        return low
    }

    // MARK: Searching

    /// Appends the k nearest rows that pass to `results`, nearest first; fewer when fewer pass.
    package func search(
        _ query: [Float], k: Int, filter: VectorFilter = VectorFilter(), effort: SearchEffort = .recall(0.95),
        with searcher: inout SegmentSearcher, into results: inout [Neighbour]
    ) throws(VectorQueryError) {
        try unsafe query.withUnsafeBufferPointer { query throws(VectorQueryError) in
            try unsafe check(query)
            unsafe search(query, k: k, filter: filter, effort: effort, dead: nil, &searcher, &results)
        }
    }

    func check(_ query: UnsafeBufferPointer<Float>) throws(VectorQueryError) {
        guard query.count == dimensions else { throw .dimensions(expected: dimensions, actual: query.count) }
        switch unsafe VectorTail.refusal(of: query) {
        case .zero: throw .zero
        case nil: return
        default: throw .notFinite
        }
    }

    /// The same for a query that was checked, without the dead rows.
    func search(
        _ query: UnsafeBufferPointer<Float>, k: Int, filter: VectorFilter, effort: SearchEffort, dead: DeadRows?,
        _ searcher: inout SegmentSearcher, _ results: inout [Neighbour]
    ) {
        let k = min(k, count)
        if k <= 0 || filter.flags != 0 { return }
        let isFiltered = !filter.passesAll
        let deadCount = dead?.count ?? 0
        var rule = unsafe tl_row_rule(columns: columns, filter: filter.rowFilter)
        if let dead, deadCount > 0 { unsafe rule.columns.dead = dead.words }
        searcher.reserve(found: max(k, 10))
        let candidates = isFiltered ? smallestRange(filter) : nil
        let among = candidates?.count ?? count
        let share = max(1e-6, Double(among) / Double(count) * Double(count - deadCount) / Double(count))
        let kept: Int
        if layout.nodes > Self.scannedNodesMax, among > max(Self.scannedNodesMax, count / 32),
            let effort = self.effort(effort)
        {
            let expansions = min(Double(layout.nodes), Double(effort.expansionsMax) / share)
            let seen = unsafe withUnsafePointer(to: rule) { rule in
                var seek = unsafe tl_seek(
                    k: UInt32(max(k, 10)), gamma: effort.gamma, expansions_max: UInt32(expansions),
                    rerank: UInt32(max(k * effort.shortlist / 10, effort.shortlist)),
                    passes: isFiltered || deadCount > 0 ? tl_node_passes : nil,
                    context: rule, excluded: .max, rows: isOneToOne ? rows : nil)
                return unsafe tl_graph_search(graph, searcher.seeker, query.baseAddress, &seek, searcher.found)
            }
            // A filter that hides more than its ranges tell: what is left is looked at one by one.
            // Dead rows alone only lengthen the walk: as without them, its cap is the effort that was asked for.
            let isCut = isFiltered && searcher.expansions >= Int(expansions)
            let isShort = seen == .max || Int(seen) < min(k, layout.nodes) && (isFiltered || deadCount > 0)
            kept =
                unsafe isShort || isCut
                ? scan(query, k: k, candidates, &rule, masked: true, &searcher) : Int(seen)
        } else {
            kept = unsafe scan(query, k: k, candidates, &rule, masked: isFiltered || deadCount > 0, &searcher)
        }
        unsafe append(kept, k: k, &rule, masked: isFiltered || deadCount > 0, searcher, &results)
    }

    /// Compares the rows of a range one by one, or all.
    private func scan(
        _ query: UnsafeBufferPointer<Float>, k: Int, _ range: OrderedRange?, _ rule: inout tl_row_rule, masked: Bool,
        _ searcher: inout SegmentSearcher
    ) -> Int {
        guard let range, range.count < count else {
            return unsafe withUnsafePointer(to: rule) { rule in
                unsafe Int(
                    tl_graph_scan(
                        graph, query.baseAddress, nil, 0, UInt32(k), masked ? tl_node_passes : nil, rule, .max,
                        searcher.found))
            }
        }
        searcher.reserve(nodes: range.count)
        let order = unsafe column(range.order, UInt32.self) + range.first
        var nodes = unsafe tl_passing_nodes(
            &rule, column(.nodes, UInt32.self), order, UInt32(range.count), searcher.nodes)
        if layout.nodes < count { unsafe nodes = Self.eachOnce(searcher.nodes, nodes) }
        let kept = unsafe tl_graph_scan(
            graph, query.baseAddress, searcher.nodes, nodes, UInt32(k), nil, nil, .max, searcher.found)
        return Int(kept)
    }

    /// Rows of one node may be far apart in an order. Sorts the nodes and returns how many there are.
    private static func eachOnce(_ nodes: UnsafeMutablePointer<UInt32>, _ count: UInt32) -> UInt32 {
        var all = unsafe UnsafeMutableBufferPointer(start: nodes, count: Int(count))
        unsafe all.sort()
        var kept = 0
        for index in 0..<all.count where unsafe kept == 0 || all[kept - 1] != all[index] {
            unsafe all[kept] = all[index]
            kept += 1
        }
        return UInt32(kept)
    }

    /// The rows of the nodes found, those that pass.
    private func append(
        _ kept: Int, k: Int, _ rule: inout tl_row_rule, masked: Bool, _ searcher: borrowing SegmentSearcher,
        _ results: inout [Neighbour]
    ) {
        let end = results.count + k
        if !isOneToOne { unsafe tl_rows_prefetch(columns.first, rows, searcher.found, UInt32(kept)) }
        for index in 0..<kept {
            let item = unsafe searcher.found[index]
            let node = Int(item.node)
            let own = unsafe isOneToOne ? node..<node + 1 : Int(columns.first[node])..<Int(columns.first[node + 1])
            for row in own where unsafe !masked || tl_row_passes(&rule, UInt32(row)) {
                if results.count == end { return }
                unsafe results.append(Neighbour(row: rows[row].vectorRow, distance: item.distance))
            }
        }
    }

    /// What an effort comes to; nil where only comparing everything gives it.
    private func effort(_ effort: SearchEffort) -> EffortLadder.Rung? {
        switch effort {
        case .exact: nil
        case .gamma(let gamma, let most, let shortlist): .init(gamma: gamma, expansionsMax: most, shortlist: shortlist)
        case .recall(let recall):
            calibration.isEmpty ? .init(gamma: 0.4, expansionsMax: 4000, shortlist: 20) : ladder[recall]
        }
    }

    // MARK: Ranges

    /// Rows that follow each other in an order, among which all that pass are.
    private struct OrderedRange {
        var order: SegmentLayout.Column
        var first: Int
        var count: Int
    }

    private func smallestRange(_ filter: VectorFilter) -> OrderedRange? {
        var ranges: [OrderedRange] = []
        func consider(_ order: SegmentLayout.Column, _ isBelow: (Int) -> Bool, _ isNotAbove: (Int) -> Bool) {
            let rows = unsafe column(order, UInt32.self)
            let first = partition { isBelow(unsafe Int(rows[$0])) }
            let end = partition { isNotAbove(unsafe Int(rows[$0])) }
            ranges.append(OrderedRange(order: order, first: first, count: max(0, end - first)))
        }
        let everything = VectorFilter()
        if filter.times != everything.times {
            consider(
                .byTime, { unsafe columns.times[$0] < filter.times.lowerBound },
                { unsafe columns.times[$0] <= filter.times.upperBound })
        }
        if filter.scores != everything.scores {
            consider(
                .byScore, { unsafe columns.scores[$0] < filter.scores.lowerBound },
                { unsafe columns.scores[$0] <= filter.scores.upperBound })
        }
        if let label = filter.label {
            consider(.byLabel, { unsafe columns.labels[$0] < label }, { unsafe columns.labels[$0] <= label })
        }
        if let entity = filter.entity {
            consider(
                .byEntity, { unsafe columns.entities[$0] < entity }, { unsafe columns.entities[$0] <= entity })
        }
        return ranges.min { $0.count < $1.count }
    }
}

extension tl_row {
    var vectorRow: VectorRow { VectorRow(id: id, time: time, score: score, entity: entity, label: label) }
}
