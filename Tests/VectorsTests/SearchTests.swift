import Testing
import Vectors

/// The scan against a plain recomputation, by every form that this machine runs.
@Suite(.serialized, .timeLimit(.minutes(5))) struct SearchTests {
    private static let kernels = VectorKernel.allCases.filter { $0 <= VectorKernel.best }

    @Test(arguments: Metric.allCases, [1, 2, 3, 4, 7, 16, 17, 31, 32, 50, 64, 127, 384, 768, 1536])
    func equalsRecomputation(_ metric: Metric, _ dimensions: Int) throws {
        defer { VectorKernel.best.use() }
        var random = Seeded(UInt64(dimensions))
        let count = dimensions > 100 ? 150 : 700
        let tail = VectorTail(dimensions: dimensions, metric: metric, rowsMax: 10_000)
        var model = TailModel(metric: metric)
        for n in 0..<count {
            let row = VectorRow(
                id: UInt64(n * 7919 % 1009), time: Int64(n), score: Float(n % 10) / 10, flags: UInt32(n % 4), tenant: 3)
            let vector = random.vector(dimensions, coarse: n % 2 == 0)
            tail.put(row, vector)
            model.put(row, vector)
        }
        for round in 0..<12 {
            let query = random.vector(dimensions, coarse: round % 2 == 0)
            let k = [1, 2, 10, 100, count * 2][round % 5]
            let expected = model.search(query, k: k)
            for kernel in Self.kernels {
                kernel.use()
                #expect(try tail.search(query, k: k) == expected, "\(kernel) k \(k)")
            }
        }
    }

    @Test(arguments: Metric.allCases)
    func filters(_ metric: Metric) throws {
        defer { VectorKernel.best.use() }
        var random = Seeded(5)
        let tail = VectorTail(dimensions: 8, metric: metric, rowsMax: 10_000)
        var model = TailModel(metric: metric)
        for n in 0..<3000 {
            let row = VectorRow(
                id: UInt64(n), time: Int64(n), score: Float.random(in: 0...1, using: &random),
                flags: UInt32.random(in: 0...7, using: &random))
            let vector = random.vector(8)
            tail.put(row, vector)
            model.put(row, vector)
        }
        var both = VectorFilter(times: 1000...1999)
        both.scores = 0.5...0.6
        both.flags = 5
        let filters = [
            VectorFilter(times: 2990...5000), VectorFilter(scores: 0.9...2), VectorFilter(flags: 6), both,
            VectorFilter(times: 77...77), VectorFilter(times: 5000...6000),
        ]
        for filter in filters {
            let query = random.vector(8)
            for k in [1, 10, 500] {
                let expected = model.search(query, k: k, filter: filter)
                for kernel in Self.kernels {
                    kernel.use()
                    #expect(try tail.search(query, k: k, filter: filter) == expected)
                }
            }
        }
        #expect(try tail.search(random.vector(8), k: 3, filter: VectorFilter(times: 77...77)).map(\.row.id) == [77])
        tail.put(VectorRow(id: 99_999, score: .nan), random.vector(8))
        #expect(try tail.search(random.vector(8), k: 5000).count == 3001)
        #expect(try tail.search(random.vector(8), k: 5000, filter: VectorFilter(times: 0...0)).count == 2)
        #expect(try tail.search(random.vector(8), k: 5000, filter: VectorFilter(scores: 0...1)).count == 3000)
    }

    @Test func equalDistancesGoById() throws {
        let tail = VectorTail(dimensions: 2, metric: .squaredL2, rowsMax: 1000)
        for id in [9, 3, 7, 1, 500, 4, 2] { tail.put(VectorRow(id: UInt64(id)), [1, 1]) }
        #expect(try tail.search([1, 1], k: 4).map(\.row.id) == [1, 2, 3, 4])
        #expect(try tail.search([5, 1], k: 100).map(\.row.id) == [1, 2, 3, 4, 7, 9, 500])
    }

    @Test func cosineIsTheCosine() throws {
        var random = Seeded(11)
        let tail = VectorTail(dimensions: 32, metric: .cosine, rowsMax: 1000)
        var vectors: [[Float]] = []
        for id in 0..<300 {
            vectors.append(random.vector(32).map { $0 * Float(id + 1) })
            tail.put(VectorRow(id: UInt64(id)), vectors[id])
        }
        let query = random.vector(32)
        func dot(_ a: [Float], _ b: [Float]) -> Double { zip(a, b).reduce(0) { $0 + Double($1.0) * Double($1.1) } }
        for found in try tail.search(query, k: 300) {
            let vector = vectors[Int(found.row.id)]
            let expected = 1 - dot(query, vector) / (dot(query, query) * dot(vector, vector)).squareRoot()
            #expect(abs(Double(found.distance) - expected) < 1e-6)
        }
    }

    @Test(arguments: [Metric.squaredL2, .cosine])
    func everyLiveVectorFindsItselfFirst(_ metric: Metric) throws {
        var random = Seeded(3)
        let tail = VectorTail(dimensions: 32, metric: metric, rowsMax: 3000)
        var live: [UInt64: [Float]] = [:]
        for n in 0..<12_000 {
            let id = UInt64.random(in: 0..<2500, using: &random)
            if n % 5 == 4 {
                #expect(tail.delete(id) == (live.removeValue(forKey: id) != nil))
            } else {
                let vector = random.vector(32)
                tail.put(VectorRow(id: id, time: Int64(n)), vector)
                live[id] = vector
            }
        }
        #expect(tail.counts.rows == live.count)
        for (id, vector) in live {
            let first = try tail.search(vector, k: 1)
            #expect(first.first?.row.id == id && first.first?.distance == 0)
        }
    }

    @Test func refusals() throws {
        let tail = VectorTail(dimensions: 3, metric: .cosine, rowsMax: 100)
        #expect(tail.put(VectorRow(id: 1), [1, 2, 3]) == .stored)
        #expect(tail.put(VectorRow(id: 1), [.nan, 2, 3]) == .refused(.notFinite))
        #expect(tail.put(VectorRow(id: 1), [.infinity, 2, 3]) == .refused(.notFinite))
        #expect(tail.put(VectorRow(id: 1), [3e38, 3e38, 3]) == .refused(.notFinite))
        #expect(tail.put(VectorRow(id: 1), [0, -0.0, 0]) == .refused(.zero))
        #expect(tail.put(VectorRow(id: 1), [1e-38, 0, 0]) == .refused(.zero))
        #expect(tail.put(VectorRow(id: 1), [1, 2]) == .refused(.dimensions))
        #expect(tail.put(VectorRow(id: 1), [1, 2, 4]) == .replaced)
        let counts = tail.counts
        #expect(counts.rows == 1 && counts.refusedNotFinite == 3 && counts.refusedZero == 2)
        #expect(counts.refusedDimensions == 1 && counts.replaced == 1 && counts.stored == 1)
        #expect(throws: VectorQueryError.zero) { try tail.search([0, 0, 0], k: 1) }
        #expect(throws: VectorQueryError.notFinite) { try tail.search([.nan, 0, 0], k: 1) }
        #expect(throws: VectorQueryError.dimensions(expected: 3, actual: 2)) { try tail.search([1, 0], k: 1) }
        #expect(try tail.search([1, 2, 4], k: 0).isEmpty)
        #expect(try tail.search([1, 2, 4], k: Int.max).count == 1)
        tail.removeAll()
        #expect(try tail.search([1, 2, 4], k: 5).isEmpty)
        #expect(!tail.contains(1))
    }

    @Test func aBufferIsUsedAgain() throws {
        let tail = VectorTail(dimensions: 2, metric: .cosine, rowsMax: 100)
        for id in 1...20 { tail.put(VectorRow(id: UInt64(id)), [Float(id), 1]) }
        var buffer = NeighbourBuffer(capacity: 5)
        for k in [1, 5, 9] {
            let query: [Float] = [1, 1]
            let expected = try tail.search(query, k: min(k, 5))
            try query.withUnsafeBufferPointer { query throws(VectorQueryError) in
                #expect(try tail.search(query, k: k, into: &buffer) == min(k, 5))
            }
            #expect(buffer.neighbours == expected)
        }
    }
}
