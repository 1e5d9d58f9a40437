import Changes
import Foundation
import Replicate
import Storage
import Testing

@testable import Edge
@testable import Vectors

@Suite(.timeLimit(.minutes(5))) struct SnapshotTests {
    /// Sealed, merged, updated and deleted: what is found is what a dictionary says, in the sealer, in a region that
    /// follows, and in one that starts again.
    @Test func whatIsFoundIsWhatWasSent() throws {
        let world = try SnapshotWorld()
        var edge = try world.edge()
        for round in 0..<9 {
            try world.events(round * 500..<round * 500 + 500)
            // Ids that come again after the duplicates' window: their older rows are gone, wherever they stand.
            if round > 1 { try world.events((0..<60).map { round * 311 % 500 + $0 * 7 }) }
            try world.run([edge])
            try world.seal([edge])
            try world.expectWhole(edge.region)
        }
        try world.expectWhole(world.sealerRegion)
        let snapshot = try #require(edge.region.replica).vectors.snapshot
        try expectTidy(edge)
        #expect(snapshot == (try world.store.current)?.manifest.number && snapshot > 9)
        let again = try world.restart(&edge)
        #expect(try #require(again.region.replica).vectors.snapshot == snapshot)
        try world.events(9000..<9100)
        try world.run([again])
        try world.expectWhole(again.region)
        // Only what is served and kept lies on the disk.
        let files = try FileManager.default.contentsOfDirectory(atPath: again.store.path + "/files")
        let needed = Set(try again.store.manifests.flatMap { $0.manifest.files(.segments) }.map(\.sha256))
        #expect(Set(files) == needed)
    }

    /// Few segments, a short tail, and little in them that is dead: over a fifth, and a segment is built anew.
    private func expectTidy(_ edge: SnapshotWorld.Edge) throws {
        let vectors = try #require(edge.region.replica).vectors
        #expect(vectors.shipped[0].count < 9 && vectors.tailRows < 700)
        for part in vectors.shipped[0] { #expect(part.live.deadCount * 5 <= part.live.segment.count) }
    }

    /// A sealer that could not keep up: its tail let rows go, and they are sealed all the same.
    @Test func whatFellOutOfTheTailIsSealed() throws {
        let world = try SnapshotWorld(tail: 1000)
        let edge = try world.edge()
        for round in 0..<2 {
            try world.events(round * 2500..<round * 2500 + 2500)
            try world.run([edge])
            #expect(try #require(world.sealerRegion.replica).vectors.collection(0).tail.counts.evicted > 0)
            // By pieces: after each of them nothing is missing and nothing is there twice.
            let before = try world.store.current?.manifest.number ?? 0
            while try world.sealer.step() {
                while edge.follower.step() {}
                #expect(try #require(edge.region.replica).vectors.rows <= world.model.count)
            }
            #expect(try #require(try world.store.current).manifest.number >= before + 2)
            try world.expectWhole(edge.region)
        }
    }

    /// A region that died comes back with an older view, and is sent again what its snapshot holds already.
    @Test func whatIsSentAgainStays() throws {
        let world = try SnapshotWorld()
        let edge = try world.edge()
        try world.events(0..<500)
        try world.run([edge])
        try world.seal([edge])
        let replica = try #require(edge.region.replica)
        try StoreIterator(replica.view.store).forEach(prefix: EventKey.prefix(tenant: "default")) { key, value in
            let key = try #require(EventKey(row: key))
            let row = try #require(EventRow(value))
            replica.vectors.put(row.record, row.vector, partition: Int(key.place >> 52), tenant: 0)
            return true
        }
        #expect(replica.vectors.tailRows == 0)
        try world.expectWhole(edge.region)
        try world.events(500..<1000)
        try world.run([edge])
        try world.seal([edge])
        try world.expectWhole(edge.region)
    }

    /// Each kind of bad snapshot is refused with its reason; the old one serves; a metric moves; the next good one heals.
    @Test(arguments: [
        "signature", "lineage", "dimension", "model", "pipeline", "hash", "truncated", "recall", "tooLarge",
        "empty", "damaged", "malformed", "rows",
    ])
    func aBadSnapshotIsRefused(_ kind: String) throws {
        let world = try SnapshotWorld(sealRows: 800)
        let source = ForgedSource(world.store)
        let edge = try world.edge(source: source, snapshotBytesMax: 20 << 20)
        try world.events(0..<800)
        try world.run([edge])
        try world.seal()
        source.envelope = try #require(try world.store.current).encoded
        while edge.follower.step() {}
        let served = try #require(edge.region.replica).vectors.snapshot
        try #require(served == (try world.store.current)?.manifest.number)
        try world.events(800..<3800)
        try world.run([edge])
        try world.seal()
        let good = try #require(try world.store.current)
        let file = try #require(good.manifest.segments.last?.file)
        let path = world.store.path(of: file)
        let bytes = try Data(contentsOf: URL(filePath: path))

        source.envelope = try Self.bad(kind, world, path: path, bytes)
        let reason = kind == "rows" ? "size" : kind
        clockOn(world)
        while edge.follower.step() {}
        let refusals = edge.follower.figures.refusals.filter { $0.value > 0 }
        #expect(refusals.keys.map(\.rawValue) == [reason], "\(refusals)")
        #expect(edge.region.snapshots.standingRefusal?.refusal.reason.rawValue == reason)
        let text = EdgeRoutes(edge.region, clock: world.clock).metricsText()
        #expect(text.contains("tideline_snapshots_refused_total{region=\"eu\",reason=\"\(reason)\"} 1\n"))
        #expect(text.contains("tideline_snapshot_refusal_standing{region=\"eu\"} 1\n"))
        // The old one serves, and nothing is missing.
        #expect(try #require(edge.region.replica).vectors.snapshot == served)
        try world.expectWhole(edge.region)

        try bytes.write(to: URL(filePath: path))
        source.envelope = good.encoded
        clockOn(world)
        while edge.follower.step() {}
        #expect(try #require(edge.region.replica).vectors.snapshot == good.manifest.number)
        #expect(edge.region.snapshots.standingRefusal == nil)
        try world.expectWhole(edge.region)
    }

    private func clockOn(_ world: SnapshotWorld) { world.clock.advance(10_000_000) }

    /// The envelope of a snapshot that is bad in one way.
    private static func bad(_ kind: String, _ world: SnapshotWorld, path: String, _ bytes: Data) throws -> [UInt8] {
        let url = URL(filePath: path)
        switch kind {
        case "signature": return try world.forge(by: SigningKey()) { _ in }.encoded
        case "malformed": return [UInt8](repeating: 7, count: 100)
        case "lineage":
            return try world.forge { manifest in
                manifest.lineage = .random()
                for index in manifest.positions.indices { manifest.positions[index].lineage = manifest.lineage }
            }.encoded
        case "dimension": return try world.forge { $0.dimensions += 1 }.encoded
        case "model": return try world.forge { $0.model = 5 }.encoded
        case "pipeline": return try world.forge { $0.pipeline = "other" }.encoded
        case "rows": return try world.forge { $0.segments[$0.segments.count - 1].rows += 1 }.encoded
        case "tooLarge":
            // Ten times what this region takes.
            return try world.forge { manifest in
                let last = manifest.segments.count - 1
                manifest.segments[last].file = try SnapshotFile(
                    sha256: manifest.segments[last].file.sha256, bytes: 200 << 20)
            }.encoded
        case "hash":
            // A bit that flipped on its way: the file is not what the manifest names.
            var flipped = bytes
            flipped[flipped.count / 2] ^= 1
            try flipped.write(to: url)
            return try #require(try world.store.current).encoded
        case "truncated":
            try bytes.prefix(bytes.count / 2).write(to: url)
            return try #require(try world.store.current).encoded
        case "damaged": return try replaced(world, by: Data(repeating: 3, count: 4000))
        case "empty":
            // Signed, and nothing in it.
            return try world.forgeEmpty()
        case "recall": return try replaced(world, by: poisoned(world))
        default: throw CocoaError(.featureUnsupported)
        }
    }

    /// A snapshot whose last segment is another file, by the sealer's own key.
    private static func replaced(_ world: SnapshotWorld, by bytes: Data) throws -> [UInt8] {
        let path = world.folder + "/forged"
        try bytes.write(to: URL(filePath: path))
        let file = try world.store.add(movingFileAt: path)
        return try world.forge { $0.segments[$0.segments.count - 1].file = file }.encoded
    }

    /// A segment that is whole, and whose table promises a recall for an effort that cannot give it.
    private static func poisoned(_ world: SnapshotWorld) throws -> Data {
        let part = try #require(world.sealerRegion.replica?.vectors.shipped[0].last)
        var file = [UInt8](
            try Data(contentsOf: URL(filePath: world.store.path(of: SnapshotFile(sha256: part.file, bytes: 1)))))
        let start = file.count - SegmentLayout.footerBytes
        var layout = try #require(SegmentLayout(footer: Array(file[start...]), fileBytes: file.count))
        layout.calibration = [CalibratedEffort(gamma: -0.99, recall: 0.999, expansions: 0)]
        file.replaceSubrange(start..., with: layout.footer)
        return Data(file)
    }

    /// An operator goes back, stays there, and goes on.
    @Test func pinAndRollback() throws {
        let world = try SnapshotWorld()
        let edge = try world.edge()
        for round in 0..<2 {
            try world.events(round * 500..<round * 500 + 500)
            try world.run([edge])
            try world.seal([edge])
        }
        let replica = try #require(edge.region.replica)
        let newest = replica.vectors.snapshot
        try edge.store.pin(newest - 1)
        while edge.follower.step() {}
        #expect(replica.vectors.snapshot == newest - 1)
        // What the newer one held is found all the same.
        try world.expectWhole(edge.region)
        try world.events(1000..<1500)
        try world.run([edge])
        try world.seal([edge])
        #expect(replica.vectors.snapshot == newest - 1)
        try world.expectWhole(edge.region)
        _ = try edge.store.unpin()
        while edge.follower.step() {}
        #expect(replica.vectors.snapshot == (try world.store.current)?.manifest.number)
        try world.expectWhole(edge.region)
    }

    /// Without a sealer a region seals its own tail; a snapshot that comes later takes over what it holds.
    @Test func aRegionSealsItsOwnTail() throws {
        let world = try SnapshotWorld(sealRows: 100_000)
        let edge = try world.edge { configuration in
            configuration.ownRows = 300
            configuration.ownAfterMicroseconds = 1_000_000
        }
        for round in 0..<4 {
            try world.events(round * 400..<round * 400 + 400)
            try world.run([edge])
            while edge.follower.step() {}
        }
        let vectors = try #require(edge.region.replica).vectors
        #expect(vectors.own[0].count > 1 && vectors.tailRows < 300 && edge.follower.figures.sealedHere > 1)
        try world.events([5, 6, 7, 8, 800])
        try world.run([edge])
        try world.expectWhole(edge.region)
        // The sealer is back, and has not yet seen the last events.
        world.clock.advance(3_600_000_000)
        try world.run([edge], rounds: 3)
        while try world.sealer.step() {}
        try world.events(5000..<5400)
        try world.run([edge])
        while edge.follower.step() {}
        #expect(vectors.snapshot > 0)
        try world.expectWhole(edge.region)
        // Nothing of it is left on the disk.
        #expect(!FileManager.default.fileExists(atPath: edge.store.path + "/own.unfinished"))
    }

    /// What is older than the pipeline keeps goes from rows, ids, tail, segments and answers.
    @Test func oldEventsLeave() throws {
        let world = try SnapshotWorld(retention: "1h")
        let edge = try world.edge()
        try world.events(0..<500)
        try world.run([edge])
        try world.seal([edge])
        try world.events(500..<600)
        try world.run([edge])
        try world.expectWhole(edge.region)
        let before = world.model.values.map(\.time).max() ?? 0
        // Two hours on: all of the above is too old; so is one that comes too late.
        try world.events(600..<900, step: 24_000_000)
        try world.run([edge])
        let newest = world.model.values.map(\.time).max() ?? 0
        let horizon = newest - 3_600_000_000
        #expect(horizon > before)
        try world.expectWhole(edge.region, since: horizon)
        let replica = try #require(edge.region.replica)
        for id in [0, 550, 601] {
            let key = try EventKey.withIdentifier(tenant: "default", id: "e\(id)") {
                try replica.view.store.get($0) { EventKey(value: $0) } ?? nil
            }
            #expect(key == nil)
        }
        // The sealer builds what is dead anew, and a region that starts again takes up none of it.
        try world.seal([edge])
        try world.expectWhole(edge.region, since: horizon)
        #expect(try #require(try world.store.current).manifest.segments.reduce(0) { $0 + $1.rows } < 400)
    }

    /// A new region begins with a snapshot: all of it is there, and it follows on.
    @Test func aNewRegionBegins() throws {
        let world = try SnapshotWorld()
        try world.longLog()
        try world.run()
        try world.seal()
        try world.events((0..<40).map { $0 * 9 })
        try world.run()
        var edge = try world.edge("new")
        try world.wait(for: edge)
        #expect(try #require(edge.region.replica).vectors.snapshot > 0)
        #expect(try #require(edge.region.replica).vectors.sealed.offsets.contains { $0 > 0 })
        try world.expectWhole(edge.region)
        // It fetched what a replay would have brought, and repaired only what came after.
        #expect(edge.follower.figures.bytesFetched > 100_000)
        let again = try world.restart(&edge, "new")
        try world.events(20_000..<20_050)
        try world.run([again])
        try world.expectWhole(again.region)
    }

    /// A snapshot that cannot be had does not keep a region from beginning.
    @Test func aNewRegionBeginsWithoutOne() throws {
        let world = try SnapshotWorld()
        try world.longLog()
        try world.run()
        try world.seal()
        let source = ForgedSource(world.store)
        source.envelope = try #require(try world.store.current).encoded
        let current = try #require(try world.store.current)
        let table = try #require(current.manifest.tables.first { $0.name.hasSuffix(".sst") })
        let path = world.store.path(of: table.file)
        var bytes = try Data(contentsOf: URL(filePath: path))
        bytes[bytes.count / 2] ^= 1
        try bytes.write(to: URL(filePath: path))
        let edge = try world.edge("new", source: source)
        try world.wait(for: edge)
        #expect(edge.region.snapshots.refusals[.hash] == 1)
        try world.expectWhole(edge.region)
    }
}

extension SnapshotWorld {
    /// More batches than a region would read from the bus.
    func longLog() throws {
        for start in stride(from: 0, to: 4200, by: 2) { try events(start..<start + 2) }
    }

    func wait(for edge: Edge) throws {
        for _ in 0..<600 {
            try run([edge], rounds: 1)
            if let replica = edge.region.replica, replica.isComplete, replica.positions.contains(where: { $0.seq > 0 })
            {
                return try run([edge])
            }
            usleep(10_000)
        }
        Issue.record("the region did not begin")
    }

    /// Signed by the sealer's key, and without any file, which no sealer of ours would sign.
    func forgeEmpty() throws -> [UInt8] {
        let json = try JSONSerialization.jsonObject(with: Data(forge { _ in }.bytes)) as? [String: Any]
        var object = try #require(json)
        object["segments"] = [Any]()
        object["tables"] = [Any]()
        let bytes = [UInt8](try JSONSerialization.data(withJSONObject: object, options: [.sortedKeys]))
        let signature = try key.sign(bytes).map { byte in
            let digits = String(byte, radix: 16)
            return digits.utf8.count == 1 ? "0" + digits : digits
        }.joined()
        return Array("tideline-snapshot 1 \(key.id) \(signature)\n".utf8) + bytes
    }
}
