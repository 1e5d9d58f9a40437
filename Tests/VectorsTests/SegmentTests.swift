import CFaiss
import Foundation
import Testing
import Vectors

@Suite(.serialized, .timeLimit(.minutes(5))) struct SegmentTests {
    @Test(arguments: Metric.allCases, [2, 3, 31, 32, 100, 768])
    func findsWhatExactSearchFinds(_ metric: Metric, _ dimensions: Int) throws {
        let fixture = try SegmentFixture()
        let count = dimensions > 100 ? 2500 : 5000
        let vectors = SegmentFixture.clustered(count + 60, dimensions, seed: UInt64(dimensions))
        let rows = SegmentFixture.rows(count)
        let segment = try fixture.segment(rows, Array(vectors.prefix(count)), metric)
        let model = SegmentFixture.model(rows, Array(vectors.prefix(count)), metric)
        var byGraph = 0.0
        for query in vectors.suffix(60) {
            let expected = model.search(query, k: 10)
            byGraph += recall(try segment.search(query, k: 10, effort: .gamma(0.6, expansionsMax: 2000)), expected)
            #expect(recall(try segment.search(query, k: 10, effort: .exact), expected) == 1)
        }
        #expect(byGraph / 60 > 0.97, "recall \(byGraph / 60)")
        #expect(segment.facts.rows == count && segment.facts.nodes == count && segment.facts.linkBytes > 0)
        #expect(segment.facts.codeBytes >= count * dimensions && segment.facts.floatBytes >= 4 * count * dimensions)
    }

    @Test(arguments: Metric.allCases)
    func goesThroughTheFile(_ metric: Metric) throws {
        let fixture = try SegmentFixture()
        let vectors = SegmentFixture.clustered(3000, 31, seed: 4)
        let rows = SegmentFixture.rows(3000)
        let segment = try fixture.segment(rows, vectors, metric)
        let mapped = try Segment(path: fixture.path(), resident: false)
        #expect(mapped.facts.floatBytes == 0 && segment.facts.floatBytes > 0)
        #expect(mapped.calibration == segment.calibration && !segment.calibration.isEmpty)
        for (row, vector) in zip(rows, vectors) {
            let place = try #require(segment.find(row.id))
            #expect(segment.row(place) == row)
            let expected = metric == .cosine ? TailModel.unit(vector) : vector
            #expect(segment.vector(place) == expected && mapped.vector(place) == expected)
        }
        #expect(segment.find(1_000_004) == nil)
        for query in vectors.prefix(20) {
            let effort = SearchEffort.gamma(0.3, expansionsMax: 500)
            #expect(try segment.search(query, k: 10, effort: effort) == mapped.search(query, k: 10, effort: effort))
        }
    }

    @Test(arguments: Metric.allCases)
    func aFAISSToolOpensIt(_ metric: Metric) throws {
        let fixture = try SegmentFixture()
        let vectors = SegmentFixture.clustered(4000, 32, seed: 8)
        let rows = SegmentFixture.rows(4000)
        let segment = try fixture.segment(rows, vectors, metric)
        var agreed = 0.0
        for query in SegmentFixture.clustered(40, 32, seed: 8) {
            var found = [tl_found](repeating: tl_found(), count: 10)
            var error = tl_graph_error()
            let opened = tl_graph_faiss_search(
                fixture.path(), metric == .cosine ? TailModel.unit(query) : query, 10, 128, &found, &error)
            try #require(opened)
            let expected = Set(try segment.search(query, k: 10, effort: .exact).map(\.row.id))
            let theirs = Set(found.map { segment.row(Int($0.node)).id })
            agreed += Double(theirs.intersection(expected).count) / 10
        }
        #expect(agreed / 40 > 0.95, "agreement \(agreed / 40)")
    }

    @Test(arguments: Metric.allCases)
    func everyVectorFindsItself(_ metric: Metric) throws {
        let fixture = try SegmentFixture()
        let vectors = SegmentFixture.clustered(6000, 16, seed: 2)
        let rows = SegmentFixture.rows(6000)
        let segment = try fixture.segment(rows, vectors, metric)
        var missed = 0
        for index in stride(from: 0, to: 6000, by: 5) {
            let query = segment.vector(try #require(segment.find(rows[index].id)))
            let expected = try segment.search(query, k: 1, effort: .exact).first?.row.id
            if metric != .innerProduct { #expect(expected == rows[index].id) }
            if try segment.search(query, k: 1, effort: .gamma(0.4, expansionsMax: 500)).first?.row.id != expected {
                missed += 1
            }
        }
        #expect(missed == 0)
    }

    @Test func identicalVectorsHideNobody() throws {
        let fixture = try SegmentFixture()
        let count = 6000
        var vectors = SegmentFixture.clustered(count + 100, 24, seed: 6)
        for index in stride(from: 0, to: count, by: 10) { vectors[index] = vectors[0] }
        let rows = SegmentFixture.rows(count)
        let segment = try fixture.segment(rows, Array(vectors.prefix(count)), .squaredL2)
        #expect(segment.facts.nodes == count - count / 10 + 1)
        let model = SegmentFixture.model(rows, Array(vectors.prefix(count)), .squaredL2)
        var sum = 0.0
        for query in vectors.suffix(100) {
            sum += recall(
                try segment.search(query, k: 10, effort: .gamma(0.4, expansionsMax: 1000)), model.search(query, k: 10))
        }
        #expect(sum / 100 > 0.97, "recall \(sum / 100)")
        // All of the same ones are there, once each.
        let same = try segment.search(vectors[0], k: 600, effort: .gamma(0.4, expansionsMax: 1000))
        #expect(same.count == 600 && Set(same.map(\.row.id)).count == 600 && same.allSatisfy { $0.distance == 0 })
        let one = VectorFilter(times: 500...500)
        #expect(try segment.search(vectors[0], k: 5, filter: one).map(\.row.time) == [500])
    }

    @Test(arguments: [0.0001, 0.01, 0.1, 0.5])
    func filtersKeepRecall(_ share: Double) throws {
        let fixture = try SegmentFixture()
        let count = 20_000
        let vectors = SegmentFixture.clustered(count + 40, 16, seed: 3)
        let rows = SegmentFixture.rows(count)
        let segment = try fixture.segment(rows, Array(vectors.prefix(count)), .squaredL2)
        let model = SegmentFixture.model(rows, Array(vectors.prefix(count)), .squaredL2)
        let width = max(1, Int64(share * Double(count)))
        var sum = 0.0
        for (index, query) in vectors.suffix(40).enumerated() {
            var filter = VectorFilter()
            if index % 2 == 0 {
                filter.times = 1000...1000 + width - 1
            } else {
                filter.scores = 0.2...0.2 + Float(share)
                if share == 0.5 { filter.label = 3 }
            }
            let found = try segment.search(query, k: 10, filter: filter)
            #expect(found.allSatisfy { filter.times.contains($0.row.time) && filter.scores.contains($0.row.score) })
            sum += recall(found, model.search(query, k: 10, filter: filter))
        }
        #expect(sum / 40 > 0.95, "recall \(sum / 40)")
        let entity = VectorFilter(entity: rows[77].entity)
        #expect(
            recall(
                try segment.search(vectors[5], k: 10, filter: entity),
                model.search(vectors[5], k: 10, filter: entity)) == 1)
    }

    @Test func oneThreadSealsTheSameEachTime() throws {
        let fixture = try SegmentFixture()
        let vectors = SegmentFixture.clustered(4000, 40, seed: 12)
        for name in ["first", "second"] {
            _ = try fixture.segment(SegmentFixture.rows(4000), vectors, .squaredL2, name: name)
        }
        #expect(FileManager.default.contentsEqual(atPath: fixture.path("first"), andPath: fixture.path("second")))
    }

    @Test func theNewestVersionIsSealed() throws {
        let fixture = try SegmentFixture()
        let rows = [(1, 5), (2, 1), (1, 9), (1, 7)].map { SegmentRow(id: UInt64($0.0), version: UInt64($0.1)) }
        let segment = try fixture.segment(rows, [[1, 0], [2, 0], [3, 0], [4, 0]], .squaredL2)
        #expect(segment.count == 2)
        #expect(try segment.search([3, 0], k: 5).map(\.row.id) == [1, 2])
        #expect(segment.vector(try #require(segment.find(1))) == [3, 0])
    }

    @Test func refusals() throws {
        let fixture = try SegmentFixture()
        let rows = [SegmentRow(id: 1), SegmentRow(id: 2)]
        func refusal(_ vectors: [[Float]], _ expected: SegmentError) {
            #expect(throws: expected) { try fixture.segment(rows, vectors, .squaredL2, name: "refused") }
            #expect(!FileManager.default.fileExists(atPath: fixture.path("refused")))
        }
        refusal([[1, 2], [.nan, 1]], .refused(row: 1, .notFinite))
        refusal([[1, .infinity], [2, 1]], .refused(row: 0, .notFinite))
        refusal([[1, 2], [0, 0]], .refused(row: 1, .zero))
        refusal([[1], [2]], .failed("dimensions must be 2 to 1536"))
        refusal([[1, 2]], .input("2 rows and 2 coordinates of 2 dimensions"))
        let segment = try fixture.segment(rows, [[1, 2], [2, 1]], .cosine)
        #expect(throws: VectorQueryError.notFinite) { try segment.search([.nan, 1], k: 1) }
        #expect(throws: VectorQueryError.zero) { try segment.search([0, 0], k: 1) }
        #expect(throws: VectorQueryError.dimensions(expected: 2, actual: 3)) { try segment.search([1, 2, 3], k: 1) }
        #expect(try segment.search([1, 2], k: 0).isEmpty)
        #expect(try segment.search([1, 2], k: .max).count == 2)
    }

    /// Codes are whole numbers: every form gives the same.
    @Test(arguments: [2, 3, 31, 32, 33, 64, 65, 100, 128, 768, 1536])
    func allKernelsGiveTheSame(_ dimensions: Int) throws {
        let best = tl_graph_best_kernel()
        defer { _ = tl_graph_use_kernel(best) }
        let fixture = try SegmentFixture()
        let vectors = SegmentFixture.clustered(300, dimensions, seed: 5)
        _ = try fixture.segment(SegmentFixture.rows(300), vectors, .squaredL2, calibrate: 0)
        var error = tl_graph_error()
        let kernels = (0...best.rawValue).map { tl_graph_kernel(rawValue: $0) }
        // What lists tell of neighbours is made by each form, too.
        let graphs = try kernels.map { kernel in
            #expect(tl_graph_use_kernel(kernel))
            return try #require(tl_graph_open(fixture.path(), TL_GRAPH_SQUARED_L2, true, &error))
        }
        defer { for graph in graphs { tl_graph_close(graph) } }
        let searcher = tl_seeker_make()
        defer { tl_seeker_free(searcher) }
        for query in vectors.prefix(20) + vectors.prefix(3).map({ $0.map { $0 * 1000 } }) {
            var distances: [[UInt32]] = []
            // Two, three and four registers, and more than there are.
            let shortlists: [UInt32] = [3, 16, 20, 31, 40]
            var results = shortlists.map { _ in [[UInt32]]() }
            for (kernel, graph) in zip(kernels, graphs) {
                #expect(tl_graph_use_kernel(kernel))
                distances.append((0..<300).map { tl_graph_code_distance(graph, query, UInt32($0)) })
                for (index, shortlist) in shortlists.enumerated() {
                    let k = min(10, shortlist)
                    var seek = tl_seek(
                        k: k, gamma: 0.3, expansions_max: 200, rerank: shortlist, passes: nil, context: nil,
                        excluded: .max, rows: nil)
                    var found = [tl_found](repeating: tl_found(), count: 10)
                    #expect(tl_graph_search(graph, searcher, query, &seek, &found) == k)
                    results[index].append(found.prefix(Int(k)).map(\.node).sorted())
                }
            }
            #expect(Set(distances).count == 1 && results.allSatisfy { Set($0).count == 1 })
        }
    }
}
