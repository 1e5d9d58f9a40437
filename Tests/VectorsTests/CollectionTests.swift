import Foundation
import Testing
import Vectors

@Suite(.serialized, .timeLimit(.minutes(5))) struct CollectionTests {
    private func tail(_ dimensions: Int) -> VectorTail {
        VectorTail(dimensions: dimensions, metric: .squaredL2, rowsMax: 100_000)
    }

    @Test func equalsADictionary() throws {
        let fixture = try SegmentFixture()
        var random = Seeded(12)
        var model = TailModel(metric: .squaredL2)
        var segments: [Segment] = []
        for part in 0..<3 {
            let rows = (0..<500).map { _ in
                SegmentRow(id: .random(in: 0..<900, using: &random), version: UInt64(part), label: UInt32(part))
            }
            let vectors = rows.map { _ in random.vector(4) }
            for (row, vector) in zip(rows, vectors) { model.put(VectorRow(id: row.id, label: row.label), vector) }
            segments.append(try fixture.segment(rows, vectors, .squaredL2, name: "\(part)"))
        }
        let collection = VectorCollection(segments: segments, tail: tail(4))
        var searcher = CollectionSearcher()
        for step in 0..<1500 {
            let id = UInt64.random(in: 0..<1000, using: &random)
            if step % 3 == 0 {
                #expect(collection.delete(id) == (model.rows.removeValue(forKey: id) != nil))
            } else if step % 3 == 1 {
                let vector = random.vector(4)
                collection.put(VectorRow(id: id, label: 7), vector)
                model.put(VectorRow(id: id, label: 7), vector)
            } else {
                let filter = step % 2 == 0 ? VectorFilter() : VectorFilter(label: UInt32(step % 4))
                let query = random.vector(4)
                let found = try collection.search(query, k: 10, filter: filter, effort: .exact, with: &searcher)
                let expected = model.search(query, k: 10, filter: filter)
                #expect(found.map(\.row.id) == expected.map(\.row.id))
                #expect(collection.contains(id) == (model.rows[id] != nil))
            }
            #expect(collection.count == model.rows.count)
        }
    }

    @Test func sixInTenDeletedAreMasked() throws {
        let fixture = try SegmentFixture()
        let count = 8000
        let vectors = SegmentFixture.clustered(count + 50, 16, seed: 21)
        let rows = SegmentFixture.rows(count)
        let segment = try fixture.segment(rows, Array(vectors.prefix(count)), .squaredL2)
        var model = SegmentFixture.model(rows, Array(vectors.prefix(count)), .squaredL2)
        let collection = VectorCollection(segments: [segment], tail: tail(16))
        for row in rows where row.time % 10 < 6 {
            #expect(collection.delete(row.id))
            model.rows[row.id] = nil
        }
        #expect(collection.deadCount == count * 6 / 10 && collection.count == count * 4 / 10)
        var searcher = CollectionSearcher()
        var sum = 0.0
        for query in vectors.suffix(50) {
            let found = try collection.search(
                query, k: 10, effort: .gamma(0.4, expansionsMax: 500), with: &searcher)
            #expect(found.count == 10 && found.allSatisfy { $0.row.time % 10 >= 6 })
            sum += recall(found, model.search(query, k: 10))
        }
        #expect(sum / 50 > 0.97, "recall \(sum / 50)")
        for row in rows where row.time % 100 == 8 {
            let vector = segment.vector(try #require(segment.find(row.id)))
            let found = try collection.search(vector, k: 1, effort: .gamma(0.4, expansionsMax: 500), with: &searcher)
            #expect(found.first?.row.id == row.id)
        }
    }

    @Test func anOldVersionChangesNothing() throws {
        let fixture = try SegmentFixture()
        let sealed = try fixture.segment([SegmentRow(id: 1, version: 5)], [[1, 1]], .squaredL2)
        let collection = VectorCollection(segments: [sealed], tail: tail(2))
        var searcher = CollectionSearcher()
        collection.put(VectorRow(id: 1), [9, 9], version: 4)
        #expect(try collection.search([1, 1], k: 1, with: &searcher).first?.distance == 0)
        #expect(collection.put(VectorRow(id: 1), [9, 9], version: 6) == .replaced)
        #expect(try collection.search([9, 9], k: 5, with: &searcher).map(\.distance) == [0])
        #expect(collection.put(VectorRow(id: 1), [.nan, 9], version: 7) == .refused(.notFinite))
    }

    /// Readers hold what they took; nobody waits, nothing is missed while rows move and collections are swapped.
    @Test func swapsUnderReaders() async throws {
        let fixture = try SegmentFixture()
        let vectors = SegmentFixture.clustered(3000, 8, seed: 40)
        let rows = SegmentFixture.rows(3000)
        let shelf = VectorShelf(
            VectorCollection(segments: [try fixture.segment(rows, vectors, .squaredL2)], tail: tail(8)))
        weak let first = shelf.collection.segments[0].segment
        let path = fixture.path()
        await withTaskGroup(of: Bool.self) { group in
            for reader in 0..<2 {
                group.addTask {
                    var searcher = CollectionSearcher()
                    for index in stride(from: reader, to: 3000, by: 3) {
                        let found = try? shelf.collection.search(
                            vectors[index], k: 1, effort: .gamma(0.4, expansionsMax: 500), with: &searcher)
                        if found?.first?.row.id != rows[index].id { return false }
                    }
                    return true
                }
            }
            group.addTask {
                for round in 0..<20 {
                    for index in stride(from: round, to: 3000, by: 40) {
                        vectors[index].withUnsafeBufferPointer { _ = shelf.put(VectorRow(id: rows[index].id), $0) }
                    }
                    guard let segment = try? Segment(path: path) else { return false }
                    shelf.replace { _ in
                        let tail = VectorTail(dimensions: 8, metric: .squaredL2, rowsMax: 10_000)
                        return VectorCollection(segments: [segment], tail: tail)
                    }
                }
                return true
            }
            for await result in group { #expect(result) }
        }
        #expect(first == nil, "a segment outlives its last reader")
        withExtendedLifetime(fixture) {}
    }

    /// What one thread writes and deletes is in every collection that another puts in place meanwhile.
    @Test func aWriterLosesNothingToReplacements() async throws {
        let vectors = SegmentFixture.clustered(20_000, 4, seed: 43)
        let shelf = VectorShelf(VectorCollection(live: [], tail: tail(4)))
        await withTaskGroup(of: Void.self) { group in
            group.addTask {
                for id in vectors.indices {
                    vectors[id].withUnsafeBufferPointer { _ = shelf.put(VectorRow(id: UInt64(id)), $0) }
                    if id % 5 == 4 { shelf.delete(UInt64(id - 2)) }
                }
            }
            group.addTask {
                for _ in 0..<40 {
                    shelf.replace { old in
                        let next = tail(4)
                        old.tail.contents.forEach { row, vector in next.put(row, vector) }
                        return VectorCollection(live: [], tail: next)
                    }
                }
            }
        }
        #expect(shelf.collection.count == 16_000)
        for id in vectors.indices { #expect(shelf.collection.contains(UInt64(id)) == (id % 5 != 2)) }
    }

    /// What is written while another collection is made is in it.
    @Test func whatIsWrittenMeanwhileIsNotLost() throws {
        let fixture = try SegmentFixture()
        let vectors = SegmentFixture.clustered(200, 4, seed: 41)
        let shelf = VectorShelf(VectorCollection(live: [], tail: tail(4)))
        func put(_ id: Int) {
            vectors[id].withUnsafeBufferPointer { _ = shelf.put(VectorRow(id: UInt64(id)), $0) }
        }
        for id in 0..<100 { put(id) }
        try shelf.replace { old in
            let contents = old.tail.contents
            let sealed = try fixture.segment(
                (0..<50).map { SegmentRow(id: $0) }, Array(vectors.prefix(50)), .squaredL2)
            let next = VectorCollection(live: [LiveSegment(sealed)], tail: tail(4))
            for id in 100..<200 { put(id) }
            shelf.delete(7)
            shelf.delete(70)
            contents.forEach { row, vector in if row.id >= 50 { next.put(row, vector) } }
            return next
        }
        #expect(shelf.collection.count == 198)
        var searcher = CollectionSearcher()
        for id in 0..<200 {
            let found = try shelf.collection.search(vectors[id], k: 1, with: &searcher).first
            #expect((found?.row.id == UInt64(id)) == (id != 7 && id != 70))
            #expect(shelf.collection.contains(UInt64(id)) == (id != 7 && id != 70))
        }
        // Rows end in a copy alone.
        let part = try #require(shelf.collection.segments.first)
        let copy = part.ending { $0 < 10 }
        #expect(part.deadCount == 1 && copy.deadCount == 10)
    }
}
