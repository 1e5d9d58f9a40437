import Foundation
import Synchronization
import Testing
import Vectors

/// What a tail keeps, gives up, and shows to readers while it changes.
@Suite(.timeLimit(.minutes(5))) struct TailTests {
    @Test(arguments: [1, 2, 3]) func equalsADictionary(_ seed: UInt64) throws {
        var random = Seeded(seed)
        let metric = Metric.allCases[Int(seed) % 3]
        let tail = VectorTail(dimensions: 6, metric: metric, rowsMax: 100_000)
        var model = TailModel(metric: metric)
        for step in 0..<20_000 {
            let id = UInt64.random(in: 0..<800, using: &random)
            if Int.random(in: 0..<4, using: &random) == 0 {
                #expect(tail.delete(id) == (model.rows.removeValue(forKey: id) != nil))
            } else {
                let row = VectorRow(id: id, time: Int64(step), score: Float(step % 7))
                let vector = random.vector(6, coarse: true)
                let outcome = tail.put(row, vector)
                #expect(outcome == (model.rows[id] == nil ? .stored : .replaced), "seed \(seed) step \(step)")
                model.put(row, vector)
            }
            if step % 500 == 0 {
                let query = random.vector(6, coarse: true)
                #expect(try tail.search(query, k: 20) == model.search(query, k: 20), "seed \(seed) step \(step)")
            }
        }
        let counts = tail.counts
        #expect(counts.rows == model.rows.count && counts.evicted == 0)
        #expect(counts.slots < 4 * 800, "dead rows are given up")
    }

    @Test func theOldestGiveWay() throws {
        let tail = VectorTail(dimensions: 2, metric: .squaredL2, rowsMax: 100)
        for id in 0..<1000 { tail.put(VectorRow(id: UInt64(id)), [Float(id), 1]) }
        #expect(tail.counts.rows == 100 && tail.counts.evicted == 900)
        #expect(try tail.search([0, 1], k: 1000).map(\.row.id) == (900..<1000).map { UInt64($0) })
        #expect(!tail.contains(899) && tail.contains(900))
        // A new version makes a row young again.
        tail.put(VectorRow(id: 900), [900, 1])
        tail.put(VectorRow(id: 1000), [1000, 1])
        #expect(tail.contains(900) && !tail.contains(901))
    }

    @Test func bytesAreBounded() throws {
        let bytes = 1 << 20
        let tail = VectorTail(dimensions: 64, metric: .squaredL2, rowsMax: 1_000_000, bytesMax: bytes)
        var random = Seeded(9)
        for id in 0..<20_000 {
            tail.put(VectorRow(id: UInt64(id)), random.vector(64))
            if id % 100 == 0 { #expect(tail.counts.bytes <= bytes) }
        }
        let counts = tail.counts
        #expect(counts.rows + Int(counts.evicted) == 20_000)
        #expect(counts.rows > bytes / 300 / 2)
        #expect(try tail.search(random.vector(64), k: 20_000).count == counts.rows)
        // The same few ids over and over: what lives is never given up.
        let small = VectorTail(dimensions: 64, metric: .squaredL2, rowsMax: 500)
        small.put(VectorRow(id: 777_777), random.vector(64))
        for n in 0..<50_000 { small.put(VectorRow(id: UInt64(n % 400)), random.vector(64)) }
        #expect(small.counts.rows == 401 && small.counts.evicted == 0 && small.contains(777_777))
        #expect(small.counts.bytes <= small.bytesMax)
    }

    /// Every row is a vector whose coordinates are all the same and agree with its fields; a torn one would not.
    @Test func readersSeeWholeRowsAndEachIdOnce() throws {
        let dimensions = 48
        let ids = 300
        let tail = VectorTail(dimensions: dimensions, metric: .squaredL2, rowsMax: 10_000)
        func put(_ id: Int, _ version: Int) {
            let value = Float(id + version % 1000 * 1000 + 1)
            tail.put(
                VectorRow(id: UInt64(id), time: Int64(value), score: value),
                [Float](repeating: value, count: dimensions))
        }
        for id in 0..<ids { put(id, 0) }
        let shared = Shared()
        let group = DispatchGroup()
        let reader: @Sendable () -> Void = {
            var buffer = NeighbourBuffer(capacity: ids * 2)
            let query = [Float](repeating: 1, count: dimensions)
            while !shared.isDone.load(ordering: .relaxed) {
                let count = query.withUnsafeBufferPointer { (try? tail.search($0, k: ids * 2, into: &buffer)) ?? -1 }
                shared.searches.withLock { $0 += 1 }
                let found = buffer.neighbours
                if count != ids { shared.faults.withLock { $0.append("\(count) rows") } }
                if Set(found.map(\.row.id)).count != count { shared.faults.withLock { $0.append("an id twice") } }
                for neighbour in found {
                    let value = neighbour.row.score
                    let one = (value - 1) * (value - 1)
                    let expected = ((one * 12 + one * 12) + (one * 12 + one * 12))
                    if Float(neighbour.row.time) != value || abs(neighbour.distance - expected) > expected * 1e-5 {
                        shared.faults.withLock { $0.append("torn: \(neighbour)") }
                    }
                }
            }
        }
        for _ in 0..<4 { Self.start(group, reader) }
        for version in 1...150 { for id in 0..<ids { put(id, version) } }
        shared.isDone.store(true, ordering: .relaxed)
        group.wait()
        #expect(shared.faults.withLock { $0.prefix(5) } == [])
        #expect(shared.searches.withLock { $0 } > 0)
        #expect(tail.counts.rows == ids && tail.counts.replaced == 45_000)
    }

    @Test func readersWhileRowsGiveWay() throws {
        let tail = VectorTail(dimensions: 16, metric: .cosine, rowsMax: 500, bytesMax: 200_000)
        let shared = Shared()
        let group = DispatchGroup()
        var random = Seeded(1)
        for id in 0..<500 { tail.put(VectorRow(id: UInt64(id)), random.vector(16)) }
        let reader: @Sendable () -> Void = {
            var random = Seeded(2)
            while !shared.isDone.load(ordering: .relaxed) {
                let found = (try? tail.search(random.vector(16), k: 10)) ?? []
                let isSorted = zip(found, found.dropFirst()).allSatisfy { $0.distance <= $1.distance }
                if found.count != 10 || !isSorted {
                    shared.faults.withLock { $0.append("\(found.count) rows, sorted: \(isSorted)") }
                }
            }
        }
        for _ in 0..<3 { Self.start(group, reader) }
        for n in 0..<30_000 {
            tail.put(VectorRow(id: UInt64(n)), random.vector(16))
            if n % 10 == 0 { tail.delete(UInt64(n)) }
        }
        shared.isDone.store(true, ordering: .relaxed)
        group.wait()
        #expect(shared.faults.withLock { $0.prefix(5) } == [])
    }

    private static func start(_ group: DispatchGroup, _ body: @escaping @Sendable () -> Void) {
        group.enter()
        Thread {
            body()
            group.leave()
        }.start()
    }
}

private final class Shared: Sendable {
    let isDone = Atomic<Bool>(false)
    let faults = Mutex<[String]>([])
    let searches = Mutex(0)
}
