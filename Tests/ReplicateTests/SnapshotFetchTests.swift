import Foundation
import Service
import Synchronization
import Testing

@testable import Replicate

@Suite struct SnapshotFetchTests {
    /// Waits little, so that a refusal comes soon.
    let limits = {
        var limits = SnapshotFetch.Limits()
        limits.attemptsMax = 4
        limits.backoffMilliseconds = 1
        return limits
    }()
    static let chunk = SnapshotChunk.bytes

    @Test func onlyWhatIsMissingComes() throws {
        let sealer = try TestSealer(in: try TestFolder())
        let region = try sealer.region()
        let source = InProcessSnapshotSource(sealer.store)
        #expect(try source.latest() == nil)
        let first = try sealer.publish(1, [("a", 1_000_000), ("b", 10)])
        let heard = try SignedManifest(decoding: #require(try source.latest()), trusting: sealer.key.trusted)
        #expect(heard == first)
        var steps: [Int] = []
        let outcome = try SnapshotFetch(store: region, source: source).fetch(heard) { done, total in
            #expect(total == 1_000_010)
            steps.append(done)
        }
        #expect(outcome == .init(filesFetched: 2, bytesFetched: 1_000_010, bytesReused: 0))
        #expect(steps.first == 0 && steps.last == 1_000_010 && steps == steps.sorted())
        try region.publish(heard)
        try region.verify(heard)

        let second = try sealer.publish(2, [("a", 1_000_000), ("c", 77)])
        let next = try SnapshotFetch(store: region, source: source).fetch(second)
        #expect(next == .init(filesFetched: 1, bytesFetched: 77, bytesReused: 1_000_000))
        #expect(source.bytesServed == 1_000_087)
        #expect(try SnapshotFetch(store: region, source: source).fetch(second).filesFetched == 0)
        #expect(try source.manifest(number: 1) == first.encoded && source.manifest(number: 9) == nil)
    }

    /// The source dies in the middle: what came is kept, and the next fetch asks for the rest alone.
    @Test func aFetchGoesOnWhereItEnded() throws {
        let sealer = try TestSealer(in: try TestFolder())
        let bytes = 10 * Self.chunk + 5
        let signed = try sealer.publish(1, [("a", bytes)])
        let region = try sealer.region()
        let dying = InProcessSnapshotSource(sealer.store) { _, _, request in request > 4 ? .drop : nil }
        #expect(
            try refusal { try SnapshotFetch(store: region, source: dying, limits: limits).fetch(signed) }
                == .unavailable)
        #expect(dying.bytesServed == 4 * Self.chunk && dying.requests == 8)
        let again = try SnapshotStore(path: region.path, trusting: sealer.key.trusted)
        let source = InProcessSnapshotSource(sealer.store)
        let outcome = try SnapshotFetch(store: again, source: source).fetch(signed)
        #expect(outcome.bytesReused == 4 * Self.chunk && source.bytesServed == bytes - 4 * Self.chunk)
        try again.publish(signed)
        try again.verify(signed)
        #expect(try FileManager.default.contentsOfDirectory(atPath: region.path + "/partial").isEmpty)
    }

    @Test func whatIsLostOrCutIsAskedForAgain() throws {
        let sealer = try TestSealer(in: try TestFolder())
        let signed = try sealer.publish(1, [("a", 6 * Self.chunk + 1)])
        let region = try sealer.region()
        let source = InProcessSnapshotSource(sealer.store) { _, _, request in
            [2: .drop, 3: .truncate, 5: .drop, 6: .drop, 7: .drop, 9: .delay(milliseconds: 1)][request]
        }
        try SnapshotFetch(store: region, source: source, limits: limits).fetch(signed)
        try region.publish(signed)
        try region.verify(signed)
        #expect(source.bytesServed == 6 * Self.chunk + 1)
    }

    /// A wrong byte is found by the hash, thrown away, and does not stand in the next fetch's way.
    @Test func aFlippedBitIsRefused() throws {
        let sealer = try TestSealer(in: try TestFolder())
        let signed = try sealer.publish(1, [("a", 3 * Self.chunk)])
        let region = try sealer.region()
        let source = InProcessSnapshotSource(sealer.store) { _, offset, _ in offset == Self.chunk ? .corrupt : nil }
        #expect(
            try refusal { try SnapshotFetch(store: region, source: source, limits: limits).fetch(signed) } == .hash)
        #expect(try FileManager.default.contentsOfDirectory(atPath: region.path + "/partial").isEmpty)
        #expect(try !region.holds(signed.manifest.files[0]) && refusal { try region.publish(signed) } == .unavailable)
        let outcome = try SnapshotFetch(store: region, source: InProcessSnapshotSource(sealer.store)).fetch(signed)
        #expect(outcome.bytesFetched == 3 * Self.chunk)
    }

    @Test func aFileThatEndsTooSoonIsRefused() throws {
        let sealer = try TestSealer(in: try TestFolder())
        let signed = try sealer.publish(1, [("a", 3 * Self.chunk)])
        let region = try sealer.region()
        let path = sealer.store.path(of: signed.manifest.files[0])
        try Data(contentsOf: URL(filePath: path)).prefix(2 * Self.chunk).write(to: URL(filePath: path))
        let source = InProcessSnapshotSource(sealer.store)
        let reason = try refusal { try SnapshotFetch(store: region, source: source, limits: limits).fetch(signed) }
        #expect(reason == .truncated || reason == .unavailable)
        #expect(source.bytesServed == 2 * Self.chunk)
        // Nothing at all comes, as often as it is asked for.
        let empty = InProcessSnapshotSource(sealer.store) { _, _, _ in .truncate }
        let small = try sealer.publish(2, [("b", 1)])
        #expect(
            try refusal { try SnapshotFetch(store: region, source: empty, limits: limits).fetch(small) } == .truncated)
        #expect(empty.requests == limits.attemptsMax)
    }

    @Test(arguments: [0, 1, 2])
    func moreThanWasAnnouncedIsRefused(chunk: Int) throws {
        let sealer = try TestSealer(in: try TestFolder())
        let signed = try sealer.publish(1, [("a", 3 * Self.chunk)])
        let region = try sealer.region()
        let source = InProcessSnapshotSource(sealer.store) { _, offset, _ in
            offset == chunk * Self.chunk ? .surplus(9 * Self.chunk) : nil
        }
        #expect(
            try refusal { try SnapshotFetch(store: region, source: source, limits: limits).fetch(signed) } == .size)
        #expect(try !region.holds(signed.manifest.files[0]))
        try SnapshotFetch(store: region, source: InProcessSnapshotSource(sealer.store)).fetch(signed)
        try region.verify(signed)
    }

    /// Before a byte is asked for.
    @Test func whatIsTooLargeIsNotBegun() throws {
        let sealer = try TestSealer(in: try TestFolder())
        let signed = try sealer.publish(1, [("a", 1000), ("b", 10)])
        let region = try sealer.region()
        let source = InProcessSnapshotSource(sealer.store)
        var limits = limits
        limits.bytesMax = 101
        #expect(
            try refusal { try SnapshotFetch(store: region, source: source, limits: limits).fetch(signed) } == .tooLarge)
        limits.bytesMax = 1010
        limits.diskBytesLeftMin = .max / 2
        #expect(
            try refusal { try SnapshotFetch(store: region, source: source, limits: limits).fetch(signed) } == .tooLarge)
        #expect(source.requests == 0)
        limits.diskBytesLeftMin = 0
        try SnapshotFetch(store: region, source: source, limits: limits).fetch(signed)
    }

    @Test func aPartialThatIsTooLongIsThrownAway() throws {
        let sealer = try TestSealer(in: try TestFolder())
        let signed = try sealer.publish(1, [("a", 1000)])
        let region = try sealer.region()
        let partial = URL(filePath: region.path + "/partial/" + signed.manifest.files[0].sha256)
        try Data(count: 1001).write(to: partial)
        let source = InProcessSnapshotSource(sealer.store)
        #expect(try SnapshotFetch(store: region, source: source).fetch(signed).bytesFetched == 1000)
        try region.verify(signed)
        // One of the right length and wrong bytes is refused, and gone.
        let other = try sealer.publish(2, [("b", 1000)])
        let wrong = region.path + "/partial/" + other.manifest.files[0].sha256
        try Data(count: 1000).write(to: URL(filePath: wrong))
        #expect(try refusal { try SnapshotFetch(store: region, source: source).fetch(other) } == .hash)
        #expect(!FileManager.default.fileExists(atPath: wrong))
        try SnapshotFetch(store: region, source: source).fetch(other)
    }

    @Test func aFetchCanBeCancelled() throws {
        let sealer = try TestSealer(in: try TestFolder())
        let signed = try sealer.publish(1, [("a", 8 * Self.chunk)])
        let region = try sealer.region()
        let source = InProcessSnapshotSource(sealer.store)
        let stopping = StopSignal()
        #expect(throws: CancellationError.self) {
            try SnapshotFetch(store: region, source: source).fetch(signed, until: stopping) { done, _ in
                if done >= 3 * Self.chunk { stopping.stop() }
            }
        }
        #expect(source.bytesServed <= 4 * Self.chunk)
        let outcome = try SnapshotFetch(store: region, source: source).fetch(signed)
        #expect(outcome.bytesReused == 3 * Self.chunk)
    }

    /// Two at once, and a sweep at each chunk: each byte comes once, and nothing is swept away under them.
    @Test func fetchesShareTheirFilesAndNoSweepTakesThem() throws {
        let sealer = try TestSealer(in: try TestFolder())
        let shared = (name: "a", bytes: 6 * Self.chunk)
        let (first, second) = (
            try sealer.publish(1, [shared, ("b", 9)]), try sealer.publish(2, [("c", Self.chunk), shared])
        )
        let region = try sealer.region()
        let source = InProcessSnapshotSource(sealer.store) { _, _, _ in .delay(milliseconds: 1) }
        let bytes = Mutex(0)
        let threads = [first, second].map { signed in
            RoleThread(name: "fetch") {
                do {
                    let outcome = try SnapshotFetch(store: region, source: source).fetch(signed) { _, _ in
                        do { try region.sweep(keep: 1) } catch { Issue.record(error) }
                    }
                    bytes.withLock { $0 += outcome.bytesFetched }
                } catch { Issue.record(error) }
            }
        }
        for thread in threads { #expect(thread.join(seconds: 60)) }
        // A file that one has brought is spared while the other still needs it, or has gone and come again.
        #expect(bytes.withLock { $0 } == source.bytesServed)
        #expect(source.bytesServed <= 13 * Self.chunk + 9)
        try region.sparing(second.manifest) {
            try SnapshotFetch(store: region, source: source).fetch(second)
            #expect(try region.sweep(keep: 1) == 0 || region.holds(second.manifest.files[0]))
            try region.verify(second)
        }
        try region.sweep(keep: 1)
        #expect(try FileManager.default.contentsOfDirectory(atPath: region.path + "/files").isEmpty)
    }

    @Test func aServerReadsItsFilesAlone() throws {
        let folder = try TestFolder()
        let sealer = try TestSealer(in: folder)
        let signed = try sealer.publish(1, [("a", 1000)])
        let server = SnapshotServer(sealer.store)
        let name = signed.manifest.files[0].sha256
        guard case .bytes(let bytes) = server.answer(.chunk(sha256: name, offset: 990, length: 1 << 20)) else {
            Issue.record("no answer")
            return
        }
        #expect(bytes.count == 10)
        for (request, reason) in [
            (.chunk(sha256: name, offset: 1000, length: 1), .truncated),
            (.chunk(sha256: name, offset: -1, length: 1), .malformed),
            (.chunk(sha256: name, offset: 0, length: 0), .malformed),
            (.chunk(sha256: name, offset: 0, length: (1 << 20) + 1), .malformed),
            (.chunk(sha256: "../current", offset: 0, length: 1), .malformed),
            (.chunk(sha256: String(repeating: "00", count: 32), offset: 0, length: 1), .unavailable),
        ] as [(SnapshotRequest, SnapshotRefusal.Reason)] {
            guard case .refused(let refusal) = server.answer(request) else {
                Issue.record("\(request) was answered")
                continue
            }
            #expect(refusal.reason == reason && !refusal.detail.contains(folder.path))
        }
        #expect(server.answer(.manifest(number: 2)) == .nothing)
    }

    @Test func requestsAndAnswersAreReadAsTheyWereWritten() throws {
        let digest = String(repeating: "0a", count: 32)
        for request in [
            .latest, .manifest(number: .max), .chunk(sha256: digest, offset: 1 << 40, length: 7),
        ] as [SnapshotRequest] {
            let bytes = request.encoded()
            #expect(bytes.withUnsafeBytes { SnapshotRequest(decoding: $0) } == request)
            for count in 0..<bytes.count {
                #expect(bytes.prefix(count).withUnsafeBytes { SnapshotRequest(decoding: $0) } == nil)
            }
            #expect((bytes + [0]).withUnsafeBytes { SnapshotRequest(decoding: $0) } == nil)
        }
        let outside = SnapshotRequest.chunk(sha256: "../" + digest.dropFirst(3), offset: 0, length: 1).encoded()
        #expect(outside.withUnsafeBytes { SnapshotRequest(decoding: $0) } == nil)
        for answer in [
            .bytes([]), .bytes([1, 2, 3]), .nothing, .refused(SnapshotRefusal(.unavailable, "not here, é")),
        ] as [SnapshotAnswer] { #expect(try SnapshotAnswer(decoding: answer.encoded()) == answer) }
        for noise in [[], [1, 2, 3], [UInt8](repeating: 7, count: 100)] as [[UInt8]] {
            #expect(try refusal { _ = try SnapshotAnswer(decoding: noise) } == .malformed)
        }
    }
}
