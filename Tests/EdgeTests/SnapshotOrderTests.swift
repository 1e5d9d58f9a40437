import Foundation
import Replicate
import Testing
import Vectors

@testable import Edge

/// What the simulation found of snapshots: each of these failed before it was mended.
@Suite(.timeLimit(.minutes(5))) struct SnapshotOrderTests {
    /// A crash between a manifest and its being the current one: the number is taken. (Simulation: seed 1003.)
    @Test func aNumberThatACrashLeftIsNotUsedAgain() throws {
        let world = try SnapshotWorld()
        let edge = try world.edge()
        for round in 0..<2 {
            try world.events(round * 500..<round * 500 + 500)
            try world.run([edge])
            try world.seal()
        }
        let newest = try #require(try world.store.current).manifest.number
        try world.store.setCurrent(number: newest - 1)
        let sealer = try world.restartedSealer()
        try world.events(1000..<1500)
        try world.run([edge])
        #expect(try sealer.step())
        #expect(try #require(try world.store.current).manifest.number > newest)
        while edge.follower.step() {}
        try world.expectWhole(edge.region)
    }

    /// A sealer that has lost its folder goes on with numbers that regions take. (Simulation: seed 2.)
    @Test func aSealerThatHasLostItsFolderIsFollowed() throws {
        let world = try SnapshotWorld()
        let source = ForgedSource(world.store)
        let edge = try world.edge(source: source)
        for round in 0..<4 {
            try world.events(round * 500..<round * 500 + 500)
            try world.run([edge])
            try world.seal()
            source.envelope = try #require(try world.store.current).encoded
            while edge.follower.step() {}
        }
        let formerly = try snapshot(of: edge)
        let next = try world.newSealer()
        try world.events(3000..<3100)
        for _ in 0..<25 {
            try world.run([edge], rounds: 1)
            while try next.region.step(waitMicroseconds: 0) {}
        }
        while try next.sealer.step() {}
        let current = try #require(try next.store.current)
        #expect(current.manifest.number > formerly)
        let moved = ForgedSource(next.store)
        moved.envelope = current.encoded
        let taken = try world.edge("eu-2", source: moved)
        try world.run([edge, taken])
        while taken.follower.step() {}
        #expect(try snapshot(of: taken) == current.manifest.number)
        for region in [edge.region, taken.region] { try world.expectWhole(region) }
    }

    /// Rows that are gone stay gone where an operator goes back to a snapshot that has them. (Simulation.)
    @Test func goingBackBringsNoDeletedRowBack() throws {
        let world = try SnapshotWorld()
        var edge = try world.edge()
        try world.events(0..<500)
        try world.run([edge])
        try world.seal([edge])
        let first = try snapshot(of: edge)
        // So many come again that the segment is built anew without them.
        try world.events(0..<400)
        try world.run([edge])
        try world.seal([edge])
        let dead = try #require(edge.region.replica).vectors.shipped[0].map(\.live.deadCount)
        #expect(try snapshot(of: edge) > first && dead.allSatisfy { $0 == 0 })
        try world.expectWhole(edge.region)
        try edge.store.pin(first)
        while edge.follower.step() {}
        #expect(try snapshot(of: edge) == first)
        try world.expectWhole(edge.region)
        edge = try world.restart(&edge)
        #expect(try snapshot(of: edge) == first)
        try world.run([edge])
        try world.expectWhole(edge.region)
    }

    /// A sealer that begins anew seals rows before it knows that they were replaced; a region has forgotten by then that they
    /// were. (Simulation: seed 195331144.)
    @Test func aSealerThatBeginsAnewBringsNoReplacedRowBack() throws {
        let world = try SnapshotWorld()
        let source = ForgedSource(world.store)
        var edge = try world.edge(source: source)
        let next = try world.newSealer()
        var begun: SnapshotManifest?
        // So many come again that the segment is built anew without them; and none that is kept has them.
        for ids in [0..<500, 0..<400, 500..<1000, 1000..<1500, 1500..<2000, 2000..<2500, 2500..<3000] {
            try world.events(ids)
            try world.run([edge])
            try world.seal()
            source.envelope = try #require(try world.store.current).encoded
            while edge.follower.step() {}
            guard begun == nil else { continue }
            while try next.region.step(waitMicroseconds: 0) {}
            #expect(try next.sealer.step())
            begun = try #require(try next.store.current).manifest
        }
        #expect(try #require(edge.region.replica).deletedRows(0).isEmpty, "forgotten")
        try world.expectWhole(edge.region)
        // What it sealed early, under the number that it takes once it knows the log's end.
        var manifest = try #require(begun)
        manifest.number = try snapshot(of: edge) + 1
        source.files = InProcessSnapshotSource(next.store)
        source.envelope = try SignedManifest(manifest, by: world.key).encoded
        while edge.follower.step() {}
        #expect(try snapshot(of: edge) == manifest.number)
        let dead = try #require(edge.region.replica).vectors.shipped[0].map(\.live.deadCount).reduce(0, +)
        #expect(dead == 400)
        try world.expectWhole(edge.region)
        edge = try world.restart(&edge)
        #expect(try snapshot(of: edge) == manifest.number)
        try world.run([edge])
        try world.expectWhole(edge.region)
    }

    /// A merge leaves out what was replaced since the last snapshot: a region that has not got so far keeps the parts, in which
    /// the replaced rows are its newest ones. (Simulation: seed 10100.)
    @Test func aMergeIsTakenByWhoKnowsOfWhatItLeavesOut() throws {
        let world = try SnapshotWorld()
        let edge = try world.edge()
        for round in 0..<3 {
            try world.events(round * 500..<round * 500 + 500)
            try world.run([edge])
            #expect(try world.sealer.step())
            while edge.follower.step() {}
        }
        let before = try snapshot(of: edge)
        let had = world.model
        try world.events(0..<100)
        try world.run()
        #expect(try world.sealer.step(), "three segments of like size become one")
        let merged = try #require(try world.store.current).manifest
        #expect(merged.segments.map(\.rows) == [1400] && merged.number > before)
        #expect(!edge.follower.step())
        #expect(try snapshot(of: edge) == before)
        let collection = try #require(edge.region.replica).vectors.collection(0)
        var searcher = CollectionSearcher()
        for id in 0..<100 {
            let old = try #require(had["e\(id)"])
            let found = try collection.search(old.vector, k: 1, effort: .exact, with: &searcher)
            #expect(found.first?.distance == 0 && found.first?.row.time == old.time)
        }
        try world.run([edge])
        while edge.follower.step() {}
        #expect(try snapshot(of: edge) == merged.number)
        try world.expectWhole(edge.region)
    }

    /// A region that begins with a snapshot remembers how far it was told that the log goes, whoever speaks next. (Simulation:
    /// on the way to seed 2007.)
    @Test func aRegionThatBeginsWithASnapshotRemembersWhatItHeard() throws {
        let world = try SnapshotWorld()
        try world.events(0..<500)
        try world.run()
        try world.seal()
        let lineage = world.log.lineage
        let end = try #require(world.figures.current.positions[0]).seq
        let edge = try world.edge("new")
        // From one who hears of the log's end sooner than the relay of this world.
        try world.bus.publish(
            Heartbeat(
                lineage: lineage, sentAt: world.clock.now, sender: 77, sent: world.clock.unset, partitions: 2,
                heads: [Heartbeat.Head(partition: 0, seq: end + 3000, digest: 0, commitTime: 0, watermark: 0)]))
        let deadline = Date(timeIntervalSinceNow: 30)
        while edge.region.replica == nil {
            try #require(Date() < deadline, "it does not begin")
            _ = try edge.region.step(waitMicroseconds: 1000)
        }
        #expect(try snapshot(of: edge) > 0)
        try world.run([edge])
        let status = edge.region.status
        #expect(status.heads[0] == end && status.heads[1] != nil, "the relay of this world was heard")
        #expect(!status.isComplete && status.state(now: world.clock.now) != .fresh)
    }

    private func snapshot(of edge: SnapshotWorld.Edge) throws -> UInt64 {
        try #require(edge.region.replica).vectors.snapshot
    }

    /// A region that waits until it has what a snapshot holds can still be told to serve another.
    @Test func aRegionThatIsBehindWaitsAndListens() throws {
        let world = try SnapshotWorld()
        let edge = try world.edge()
        for round in 0..<2 {
            try world.events(round * 500..<round * 500 + 500)
            try world.run([edge])
            try world.seal([edge])
        }
        let replica = try #require(edge.region.replica)
        let newest = replica.vectors.snapshot
        try world.events(1000..<1500)
        try world.run()
        try world.seal()
        #expect(!edge.follower.step(), "the region has not applied what the new one holds")
        #expect(replica.vectors.snapshot == newest)
        try edge.store.pin(newest - 1)
        #expect(edge.follower.step())
        #expect(replica.vectors.snapshot == newest - 1)
        try edge.store.unpin()
        try world.run([edge])
        while edge.follower.step() {}
        #expect(replica.vectors.snapshot == (try world.store.current)?.manifest.number)
        try world.expectWhole(edge.region)
    }
}
