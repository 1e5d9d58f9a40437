import Changes
import Foundation
import NATS
import Replicate
import Service
import Storage
import Testing

/// A sealer's store in a folder of its own, with snapshots of noise.
final class NoiseSealer {
    let folder = NSTemporaryDirectory() + "/snapshots-\(UUID().uuidString)"
    let key: SigningKey
    let store: SnapshotStore

    init() throws {
        key = try SigningKey()
        store = try SnapshotStore(path: folder + "/sealer", trusting: key.trusted)
    }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    @discardableResult
    func publish(_ number: UInt64, sizes: [Int]) throws -> SignedManifest {
        let lineage = Lineage(high: 7, low: 11)
        let noise = try FileHandle(forReadingFrom: URL(filePath: "/dev/urandom"))
        let segments = try sizes.enumerated().map { index, size in
            let path = "\(folder)/noise"
            try (noise.read(upToCount: size) ?? Data()).write(to: URL(filePath: path))
            let file = try store.add(movingFileAt: path)
            return SnapshotSegment(tenant: "tenant\(index)", file: file, rows: 1, recall: 1)
        }
        let manifest = SnapshotManifest(
            lineage: lineage, number: number, createdAt: 1, pipeline: "sample", schema: 1, model: 0, dimensions: 4,
            metric: "l2", positions: [AppliedPosition(lineage: lineage)], segments: segments, tables: [])
        let signed = try SignedManifest(manifest, by: key)
        try store.publish(signed)
        return signed
    }

    func region() throws -> SnapshotStore {
        try SnapshotStore(path: folder + "/region", trusting: key.trusted, holding: .segments)
    }
}

/// A server and the thread that runs it.
final class RunningServer {
    let server: NATSSnapshotServer
    private let stopping = StopSignal()
    private let thread: RoleThread

    init(_ bus: TestBus, _ store: SnapshotStore) throws {
        let server = try NATSSnapshotServer(
            url: bus.url, pipeline: "sample", store: store, log: Log(role: "test", minimum: .error))
        self.server = server
        let stopping = stopping
        thread = RoleThread(name: "snapshots") {
            while !stopping.isStopped { server.step(waitMicroseconds: 20_000) }
        }
    }

    deinit {
        stopping.stop()
        server.close()
        thread.join(seconds: 20)
    }
}

@Suite(
    .serialized, .timeLimit(.minutes(5)),
    .enabled(
        if: TestBus.program != nil, "the bus is NOT tested: nats-server is not installed (make setup)"))
struct SnapshotBusTests {
    func source(_ bus: TestBus, answerMilliseconds: Int = 3000) throws -> NATSSnapshotSource {
        let source = try NATSSnapshotSource(
            url: bus.url, pipeline: "sample", region: "eu", answerMilliseconds: answerMilliseconds)
        try #require(eventually { source.isConnected })
        return source
    }

    /// Two servers share the requests; what is heard is what was signed.
    @Test func aSnapshotCrossesTheBus() throws {
        let bus = try TestBus()
        let sealer = try NoiseSealer()
        let signed = try sealer.publish(1, sizes: [3_000_000, 1, SnapshotChunk.bytes, 17])
        let servers = [try RunningServer(bus, sealer.store), try RunningServer(bus, sealer.store)]
        defer { withExtendedLifetime(servers) {} }
        let source = try source(bus)
        var envelope: [UInt8]?
        try #require(
            try eventually {
                envelope = try source.latest()
                return envelope != nil
            })
        let heard = try SignedManifest(decoding: #require(envelope), trusting: sealer.key.trusted)
        #expect(heard == signed)
        let region = try sealer.region()
        let outcome = try SnapshotFetch(store: region, source: source).fetch(heard)
        #expect(outcome.bytesFetched == heard.manifest.bytes && outcome.filesFetched == 4)
        try region.publish(heard)
        try region.verify(heard)
        // A new one is announced at once; the old one can still be asked for.
        let next = try sealer.publish(2, sizes: [5])
        servers[0].server.announce()
        try #require(try eventually { try source.latest() == next.encoded })
        #expect(try source.manifest(number: 1) == signed.encoded && source.manifest(number: 3) == nil)
        let file = next.manifest.files[0]
        #expect(try source.chunk(of: file, offset: 0, length: 5).count == 5)
        #expect(throws: SnapshotRefusal.self) { try source.chunk(of: file, offset: 5, length: 1) }
        let unknown = try SnapshotFile(sha256: String(repeating: "00", count: 32), bytes: 9)
        do {
            _ = try source.chunk(of: unknown, offset: 0, length: 9)
            Issue.record("there is no such file")
        } catch let refusal as SnapshotRefusal { #expect(refusal.reason == .unavailable) }
    }

    /// Before anybody serves, and before there is a snapshot, the answer is that there is none.
    @Test func nobodyIsNotAnError() throws {
        let bus = try TestBus()
        let sealer = try NoiseSealer()
        let source = try source(bus)
        #expect(try source.latest() == nil)
        let file = try SnapshotFile(sha256: String(repeating: "00", count: 32), bytes: 9)
        do {
            _ = try source.chunk(of: file, offset: 0, length: 9)
            Issue.record("nobody is there")
        } catch let refusal as SnapshotRefusal {
            #expect(refusal.reason == .unavailable && refusal.detail.contains("nobody"))
        }
        let running = try RunningServer(bus, sealer.store)
        defer { withExtendedLifetime(running) {} }
        #expect(try source.latest() == nil)
        #expect(try source.manifest(number: 1) == nil)
        let signed = try sealer.publish(1, sizes: [9])
        try #require(try eventually { try source.latest() == signed.encoded })
        bus.kill()
        try #require(eventually { !source.isConnected })
        // What was heard stays known.
        #expect(try source.latest() == signed.encoded)
        #expect(throws: SnapshotRefusal.self) { try source.chunk(of: file, offset: 0, length: 9) }
    }

    /// Eight requests are under way before the first answer, and never more: a round trip does not bound the rate.
    @Test func requestsAreSentAhead() throws {
        let bus = try TestBus()
        let sealer = try NoiseSealer()
        let signed = try sealer.publish(1, sizes: [40 * SnapshotChunk.bytes + 3])
        let server = try NATSSnapshotServer(
            url: bus.url, pipeline: "sample", store: sealer.store, log: Log(role: "test", minimum: .error))
        let source = try source(bus, answerMilliseconds: 60_000)
        let region = try sealer.region()
        let fetching = RoleThread(name: "fetch") {
            do { try SnapshotFetch(store: region, source: source).fetch(signed) } catch { Issue.record(error) }
        }
        var served = 0
        while served < 41 {
            let ahead = min(SnapshotChunk.window, 41 - served)
            try #require(eventually { server.waitingCount == ahead }, "\(server.waitingCount) after \(served)")
            served += server.step(waitMicroseconds: 0) ? 1 : 0
        }
        #expect(fetching.join(seconds: 60))
        try region.publish(signed)
        try region.verify(signed)
    }

    /// 20 MB, and the bus is killed twice on the way: each byte comes, and few come twice.
    @Test func aKilledServerIsOutlived() throws {
        let bus = try TestBus()
        let sealer = try NoiseSealer()
        let size = 20_000_000
        let signed = try sealer.publish(1, sizes: [size])
        let running = try RunningServer(bus, sealer.store)
        defer { withExtendedLifetime(running) {} }
        let source = try source(bus)
        let region = try sealer.region()
        var limits = SnapshotFetch.Limits()
        limits.attemptsMax = 200
        limits.backoffMilliseconds = 20
        var kills = 0
        var restarted = true
        let outcome = try SnapshotFetch(store: region, source: source, limits: limits).fetch(signed) { done, _ in
            let mark = (kills + 1) * size / 3
            guard mark < done, kills < 2 else { return }
            kills += 1
            bus.kill()
            do { try bus.start() } catch { restarted = false }
        }
        #expect(kills == 2 && restarted && outcome.bytesFetched == size)
        try region.publish(signed)
        try region.verify(signed)
    }

    /// A fetch gives up where nobody answers, and the next goes on where it ended.
    @Test func aFetchThatGaveUpGoesOn() throws {
        let bus = try TestBus()
        let sealer = try NoiseSealer()
        let signed = try sealer.publish(1, sizes: [8_000_000])
        let running = try RunningServer(bus, sealer.store)
        defer { withExtendedLifetime(running) {} }
        let region = try sealer.region()
        var limits = SnapshotFetch.Limits()
        limits.attemptsMax = 2
        limits.backoffMilliseconds = 1
        let first = try source(bus)
        var came = 0
        #expect(throws: SnapshotRefusal.self) {
            try SnapshotFetch(store: region, source: first, limits: limits).fetch(signed) { done, _ in
                came = done
                if done > 3_000_000 { bus.kill() }
            }
        }
        #expect(came > 3_000_000 && came < 8_000_000)
        try bus.start()
        let second = try source(bus)
        try #require(eventually { running.server.isConnected })
        let outcome = try SnapshotFetch(store: region, source: second).fetch(signed)
        #expect(outcome.bytesReused == came && outcome.bytesFetched == 8_000_000 - came)
        try region.verify(signed)
    }
}
