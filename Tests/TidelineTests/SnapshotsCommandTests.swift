import Changes
import Foundation
import Replicate
import Storage
import Testing

@testable import Tideline

/// The commands beside a region whose store holds three snapshots.
@Suite struct SnapshotsCommandTests {
    final class Place {
        let path = NSTemporaryDirectory() + "/snapshots-\(UUID().uuidString)"
        let store: SnapshotStore

        init() throws {
            let lineage = Lineage(high: 7, low: 11)
            guard tidelineTool.main(["keys", "--out", path + "/keys"]) == 0 else { throw CocoaError(.fileWriteUnknown) }
            let key = try SigningKey(path: path + "/keys/snapshot.key")
            store = try SnapshotStore(
                path: path + "/edge-eu/snapshots", trusting: TrustedKeys(paths: [path + "/keys/snapshot.pub"]),
                holding: .segments)
            for number in 1...3 {
                let file = path + "/file"
                try Data(repeating: UInt8(number), count: 100).write(to: URL(filePath: file))
                let segment = SnapshotSegment(
                    tenant: "default", file: try store.add(movingFileAt: file), rows: 5, recall: 0.97)
                let manifest = SnapshotManifest(
                    lineage: lineage, number: UInt64(number), createdAt: 1_790_000_000_000_000, pipeline: "cards",
                    schema: 1, model: 7, dimensions: 4, metric: "l2", positions: [AppliedPosition(lineage: lineage)],
                    segments: [segment], tables: [])
                try store.publish(SignedManifest(manifest, by: key))
            }
        }

        deinit { try? FileManager.default.removeItem(atPath: path) }

        func run(_ words: String..., options: [String] = []) -> Int32 {
            tidelineTool.main(["snapshots"] + words + ["--dir", path] + options)
        }
    }

    @Test func aRegionIsToldWhatToServe() throws {
        let place = try Place()
        #expect(place.run("list") == 0 && place.run("list", "--json") == 0)
        #expect(try place.run("pin", "1") == 0 && place.store.pinned == 1)
        #expect(try place.run("unpin") == 0 && place.store.pinned == nil)
        #expect(place.run("unpin") == 0)
        #expect(try place.run("rollback") == 0 && place.store.pinned == 2)
        // The region has followed: the next one back is 1, and then there is none.
        try place.store.setCurrent(number: 2)
        #expect(try place.run("rollback") == 0 && place.store.pinned == 1)
        try place.store.setCurrent(number: 1)
        #expect(place.run("rollback") == 64)
        #expect(place.run("rollback", "3") == 64, "that is forward")
        #expect(try place.store.current?.manifest.number == 1, "what is served is the role's own to say")
        #expect(place.run("verify") == 0 && place.run("verify", "3") == 0)
    }

    @Test func whatDoesNotHoldIsSaid() throws {
        let place = try Place()
        for words in [["pin"], ["pin", "x"], ["pin", "0"], ["verify", "-1"], ["pin", "1", "2"]] {
            #expect(tidelineTool.main(["snapshots"] + words + ["--dir", place.path]) == 64, "\(words)")
        }
        #expect(place.run("pin", "9") == 2 && place.run("verify", "9") == 2)
        #expect(place.run("list", options: ["--region", "us"]) == 64 && place.run("list", options: ["--sealer"]) == 64)
        #expect(place.run("list", options: ["--trust", place.path + "/none"]) == 64)
        let file = try #require(try place.store.current).manifest.files[0]
        try Data(repeating: 9, count: 100).write(to: URL(filePath: place.store.path(of: file)))
        #expect(place.run("verify") == 1 && place.run("verify", "1") == 0)
        // Another key: none of them can be read.
        #expect(tidelineTool.main(["keys", "--out", place.path + "/other"]) == 0)
        let other = ["--trust", place.path + "/other/snapshot.pub"]
        #expect(place.run("verify", options: other) == 2 && place.run("pin", "1", options: other) == 2)
        #expect(place.run("list", options: other) == 1)
        let both = other + ["--trust", place.path + "/keys/snapshot.pub"]
        #expect(place.run("list", options: both) == 0)
    }

    @Test func keysAreMadeOnce() throws {
        let place = try Place()
        #expect(tidelineTool.main(["keys", "--out", place.path + "/keys"]) == 64)
        #expect(tidelineTool.main(["keys"]) == 64)
    }
}
