import Changes
import Foundation
import Testing

@testable import Replicate

@Suite struct SnapshotStoreTests {
    struct Crash: Error {}

    @Test func filesComeInByMoveAndByLink() throws {
        let folder = try TestFolder()
        let store = try TestSealer(in: folder).store
        let path = try folder.write("a", bytes: 3000)
        let linked = try store.add(linkingFileAt: path)
        #expect(try linked.bytes == 3000 && store.holds(linked) && FileManager.default.fileExists(atPath: path))
        #expect(try SHA256.hex(ofFileAt: store.path(of: linked)) == linked.sha256)
        // The same bytes again are the same file.
        #expect(try store.add(linkingFileAt: path) == linked)
        #expect(try store.add(movingFileAt: path) == linked && !FileManager.default.fileExists(atPath: path))
        let other = try store.add(movingFileAt: folder.write("b", bytes: 1))
        #expect(other != linked)
        // One that an accident cut is taken in anew.
        try Data([1]).write(to: URL(filePath: store.path(of: linked)))
        #expect(try !store.holds(linked))
        #expect(try store.add(linkingFileAt: folder.write("a", bytes: 3000)) == linked && store.holds(linked))
        #expect(try refusal { _ = try store.add(movingFileAt: folder.write("c", bytes: 0)) } == .empty)
        do {
            _ = try store.add(movingFileAt: folder.path + "/none")
            Issue.record("it is not there")
        } catch let error as SnapshotFileError {
            #expect(error.path == folder.path + "/none" && !error.message.isEmpty)
        }
    }

    @Test func whatIsPublishedIsCurrent() throws {
        let folder = try TestFolder()
        let sealer = try TestSealer(in: folder)
        #expect(try sealer.store.current == nil && sealer.store.manifests.isEmpty)
        let first = try sealer.publish(1, [("a", 100), ("b", 200)])
        let second = try sealer.publish(2, [("b", 200), ("c", 300)])
        #expect(try sealer.store.current == second && sealer.store.manifests == [first, second])
        #expect(try FileManager.default.contentsOfDirectory(atPath: sealer.store.path + "/files").count == 3)
        // Another process, and a later start of this one.
        for mode in [SnapshotStore.Mode.reading, .writing] {
            let other = try SnapshotStore(path: sealer.store.path, trusting: sealer.key.trusted, mode: mode)
            #expect(try other.current == second && other.manifests == [first, second])
            try other.verify(second)
        }
        try sealer.store.setCurrent(number: 1)
        #expect(try sealer.store.current == first)
        #expect(try refusal { try sealer.store.setCurrent(number: 7) } == .unavailable)
        // The same again is no error; another under the same number is.
        try sealer.store.publish(second)
        #expect(try sealer.store.current == second)
        #expect(try refusal { try sealer.publish(2, [("d", 10)]) } == .older)
        #expect(try sealer.store.current == second)
    }

    @Test func nothingIsPublishedWithoutItsFiles() throws {
        let sealer = try TestSealer(in: try TestFolder())
        let signed = try sealer.seal(1, [("a", 100)])
        try FileManager.default.removeItem(atPath: sealer.store.path(of: signed.manifest.files[0]))
        #expect(try refusal { try sealer.store.publish(signed) } == .unavailable)
        #expect(try sealer.store.current == nil && sealer.store.manifests.isEmpty)
    }

    @Test func nothingUnsignedIsPublishedOrLoaded() throws {
        let sealer = try TestSealer(in: try TestFolder())
        let foreign = try SignedManifest(sealer.seal(1, [("a", 100)]).manifest, by: try SigningKey())
        #expect(try refusal { try sealer.store.publish(foreign) } == .signature)
        try sealer.publish(1, [("a", 100)])
        let other = try SnapshotStore(path: sealer.store.path, trusting: SigningKey().trusted, mode: .reading)
        #expect(try refusal { _ = try other.current } == .signature)
        #expect(try other.manifests.isEmpty && other.inventory().damaged.count == 1)
    }

    /// A crash between any two steps leaves the old snapshot or the new one, whole, and the next publish succeeds.
    @Test(arguments: SnapshotStore.PublishStep.allCases)
    func aCrashLeavesTheOldOrTheNew(at step: SnapshotStore.PublishStep) throws {
        let folder = try TestFolder()
        let sealer = try TestSealer(in: folder)
        let old = try sealer.publish(1, [("a", 100), ("b", 200)])
        let new = try sealer.seal(2, [("b", 200), ("c", 300)])
        let dying = try SnapshotStore(path: sealer.store.path, trusting: sealer.key.trusted, mode: .writing) {
            if $0 == step { throw Crash() }
        }
        #expect(throws: Crash.self) { try dying.publish(new) }

        // As the command line sees it, and as the next start does.
        for mode in [SnapshotStore.Mode.reading, .writing] {
            let store = try SnapshotStore(path: sealer.store.path, trusting: sealer.key.trusted, mode: mode)
            let current = try #require(try store.current)
            #expect(current == (step == .currentWritten ? new : old))
            try store.verify(current)
            #expect(try store.inventory().damaged.isEmpty)
        }
        let left = try #require(FileManager.default.enumerator(atPath: sealer.store.path)?.allObjects as? [String])
        #expect(!left.contains { $0.hasSuffix(".unfinished") })
        let store = try SnapshotStore(path: sealer.store.path, trusting: sealer.key.trusted)
        try store.publish(new)
        #expect(try store.current == new && store.manifests == [old, new])
        try store.sweep(keep: 2)
        try store.verify(old)
        try store.verify(new)
    }

    @Test func aPinIsFollowedByWhoeverReads() throws {
        let sealer = try TestSealer(in: try TestFolder())
        for number in 1...3 { try sealer.publish(UInt64(number), [("f\(number)", 10)]) }
        let operating = try SnapshotStore(path: sealer.store.path, trusting: sealer.key.trusted, mode: .reading)
        #expect(try sealer.store.pinned == nil)
        try operating.pin(2)
        #expect(try sealer.store.pinned == 2 && sealer.store.current?.manifest.number == 3)
        #expect(try refusal { try operating.pin(9) } == .unavailable)
        #expect(try sealer.store.pinned == 2)
        #expect(try operating.unpin() && sealer.store.pinned == nil)
        #expect(try !operating.unpin())
        try Data("nonsense".utf8).write(to: URL(filePath: sealer.store.path + "/pinned"))
        #expect(try refusal { _ = try sealer.store.pinned } == .damaged)
    }

    @Test func nothingIsReadWhereThereIsNone() throws {
        let folder = try TestFolder()
        #expect(throws: SnapshotFileError.self) {
            try SnapshotStore(path: folder.path + "/none", trusting: TrustedKeys([:]), mode: .reading)
        }
        #expect(!FileManager.default.fileExists(atPath: folder.path + "/none"))
    }

    @Test func aSweepSparesWhatIsServed() throws {
        let folder = try TestFolder()
        let sealer = try TestSealer(in: folder)
        let store = sealer.store
        for number in 1...6 { try sealer.publish(UInt64(number), [("shared", 50), ("f\(number)", 10 * number)]) }
        try store.setCurrent(number: 3)
        try store.pin(2)
        try Data([1]).write(to: URL(filePath: store.path + "/partial/" + String(repeating: "ee", count: 32)))
        let underWay = try sealer.seal(7, [("f7", 70)])
        // Those of 1 and 4, and the partial.
        #expect(try store.sweep(keep: 2, sparing: underWay.manifest) == 3)
        #expect(try store.manifests.map(\.manifest.number) == [2, 3, 5, 6])
        for signed in try store.manifests { try store.verify(signed) }
        try store.publish(underWay)
        try store.verify(underWay)
        try store.unpin()
        #expect(try store.sweep(keep: 1) == 5)
        #expect(try store.manifests.map(\.manifest.number) == [7] && store.sweep(keep: 1) == 0)
        try store.verify(underWay)
    }

    /// Where it cannot be read what is served, nothing is removed.
    @Test func aSweepThatCannotSeeRemovesNothing() throws {
        let sealer = try TestSealer(in: try TestFolder())
        for number in 1...3 { try sealer.publish(UInt64(number), [("f\(number)", 10)]) }
        let manifest = sealer.store.path + "/manifests/\(TestSealer.lineage)-3"
        let sound = try Data(contentsOf: URL(filePath: manifest))
        try (sound + Data([0x20])).write(to: URL(filePath: manifest))
        #expect(try refusal { try sealer.store.sweep(keep: 1) } == .signature)
        #expect(try FileManager.default.contentsOfDirectory(atPath: sealer.store.path + "/files").count == 3)
        #expect(try sealer.store.inventory().damaged.map(\.name.number) == [3])
        try sound.write(to: URL(filePath: manifest))
        #expect(try sealer.store.sweep(keep: 1) == 2)
    }

    @Test func damageIsFound() throws {
        let sealer = try TestSealer(in: try TestFolder())
        let signed = try sealer.publish(1, [("a", 1000), ("b", 2000)])
        let path = sealer.store.path(of: signed.manifest.files[1])
        let sound = try Data(contentsOf: URL(filePath: path))
        try sealer.store.verify(signed)
        var flipped = sound
        flipped[1234] ^= 4
        for wrong in [flipped, sound.dropLast(), sound + Data([0])] {
            try wrong.write(to: URL(filePath: path))
            do {
                try sealer.store.verify(signed)
                Issue.record("the damage was not seen")
            } catch let refusal as SnapshotRefusal {
                #expect(refusal.reason == .damaged && refusal.detail.contains(path))
            }
        }
        try FileManager.default.removeItem(atPath: path)
        #expect(try refusal { try sealer.store.verify(signed) } == .damaged)
        #expect(try refusal { try sealer.store.setCurrent(number: 1) } == .damaged)
        #expect(try refusal { try sealer.store.pin(1) } == .damaged)
        #expect(try sealer.store.pinned == nil)
    }

    /// A new log begins again at 1: it is newer all the same, by its clock; within a log the number tells.
    @Test func lineagesAreInOrder() throws {
        let sealer = try TestSealer(in: try TestFolder())
        let file = try sealer.seal(1, [("a", 10)]).manifest.segments
        let next = Lineage(high: 1, low: 1)
        for (lineage, number, createdAt) in [
            (TestSealer.lineage, 8, 500), (TestSealer.lineage, 9, 400), (next, 1, 900), (next, 2, 300),
        ] as [(Lineage, UInt64, Int64)] {
            var manifest = try TestSealer.manifest(number: number, lineage: lineage)
            manifest.createdAt = createdAt
            manifest.tables = []
            manifest.segments = file
            try sealer.store.publish(SignedManifest(manifest, by: sealer.key))
        }
        #expect(try sealer.store.manifests.map(\.manifest.number) == [8, 9, 1, 2])
        try sealer.store.sweep(keep: 1)
        #expect(try sealer.store.manifests.map(\.manifest.number) == [2])
    }
}
