import CFaiss
import Foundation
import Testing
import Vectors

/// A damaged file is an error or, below the checksum, a graph that can be searched; it never ends the process.
@Suite(.serialized, .timeLimit(.minutes(5))) struct SegmentDamageTests {
    private func sealed(_ fixture: SegmentFixture) throws -> [UInt8] {
        let vectors = SegmentFixture.clustered(400, 5, seed: 1)
        _ = try fixture.segment(SegmentFixture.rows(400), vectors, .squaredL2)
        return Array(try Data(contentsOf: URL(filePath: fixture.path())))
    }

    private func write(_ bytes: some Sequence<UInt8>, _ fixture: SegmentFixture) throws -> String {
        let path = fixture.path("damaged")
        try Data(bytes).write(to: URL(filePath: path))
        return path
    }

    @Test func cutOffAnywhere() throws {
        let fixture = try SegmentFixture()
        let bytes = try sealed(fixture)
        for length in Array(0..<300) + Array(stride(from: 300, to: bytes.count, by: 997)) + [bytes.count - 1] {
            let path = try write(bytes.prefix(length), fixture)
            #expect(throws: SegmentError.self) { try Segment(path: path) }
            var error = tl_graph_error()
            // The graph alone is whole when the columns are missing.
            if let graph = tl_graph_open(path, TL_GRAPH_SQUARED_L2, true, &error) {
                tl_graph_close(graph)
                #expect(length > bytes.count / 2)
            }
        }
        #expect(throws: SegmentError.self) { try Segment(path: fixture.path("missing")) }
        #expect(throws: SegmentError.self) { try Segment(path: fixture.folder.path) }
        #expect(throws: SegmentError.self) { try Segment(path: try write(bytes + [0], fixture)) }
    }

    @Test func flippedBits() throws {
        let fixture = try SegmentFixture()
        let bytes = try sealed(fixture)
        var random = Seeded(31)
        let searcher = tl_seeker_make()
        defer { tl_seeker_free(searcher) }
        // Every byte of the headers, and many anywhere.
        let places = Array(0..<400) + (0..<1500).map { _ in Int.random(in: 0..<bytes.count, using: &random) }
        for place in places {
            var damaged = bytes
            damaged[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            let path = try write(damaged, fixture)
            #expect(throws: SegmentError.self) { try Segment(path: path) }
            var error = tl_graph_error()
            guard let graph = tl_graph_open(path, TL_GRAPH_SQUARED_L2, true, &error) else { continue }
            var seek = tl_seek(
                k: 10, gamma: 0.5, expansions_max: 500, rerank: 20, passes: nil, context: nil, excluded: .max,
                rows: nil)
            var found = [tl_found](repeating: tl_found(), count: 10)
            #expect(tl_graph_search(graph, searcher, [0.1, 0.2, 0.3, 0.4, 0.5], &seek, &found) <= 10)
            tl_graph_close(graph)
        }
    }

    @Test func absurdCountsAreRefused() throws {
        let fixture = try SegmentFixture()
        let bytes = try sealed(fixture)
        // Counts of the header and of the first lists, made as large as they get.
        for place in [4, 8, 37, 109, 153, 1761] {
            for value: [UInt8] in [[0xFF, 0xFF, 0xFF, 0x7F], [0xFF, 0xFF, 0xFF, 0xFF], [0, 0, 0, 0x40]] {
                var damaged = bytes
                damaged.replaceSubrange(place..<place + 4, with: value)
                var error = tl_graph_error()
                #expect(tl_graph_open(try write(damaged, fixture), TL_GRAPH_SQUARED_L2, true, &error) == nil)
            }
        }
    }
}
