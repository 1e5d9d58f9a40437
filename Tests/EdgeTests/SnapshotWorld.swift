import Changes
import Core
import Features
import Foundation
import Replicate
import Scoring
import Service
import Storage
import Testing
import Vectors

@testable import Edge

/// A log of events that bring their vectors, a sealer, and regions that take its snapshots: all in one thread, over real
/// stores in a temporary folder. A dictionary says what must be found.
final class SnapshotWorld {
    static let dimensions = 8
    let folder = NSTemporaryDirectory() + "/snapshots-\(UUID().uuidString)"
    let pipeline: Pipeline
    var log: EmbeddedLog
    var loop: ScoringLoop
    var figures = CoreFigures()
    let bus = InProcessBus()
    let clock = ManualClock()
    var relay: Relay
    let key: SigningKey
    let store: SnapshotStore
    let sealerRegion: Region
    let sealer: Sealer
    private var sealing = Sealer.Configuration()
    /// What must be found: each id's newest vector and time.
    var model: [String: (vector: [Float], time: Int64)] = [:]
    private var random = Seeded(7)
    private var time: Int64 = 1_700_000_000_000_000

    init(retention: String = "90d", sealRows: Int = 400, fanOut: Int = 3, tail: Int = 100_000) throws {
        pipeline = try Pipeline(
            text: """
                pipeline: vectors
                event: { id: id, time: { path: t, unit: us } }
                entities: { item: { path: item } }
                embedding: { field: vector, dimension: \(Self.dimensions), metric: l2 }
                features: [ { since_last: [item] } ]
                limits: { duplicate_ids: 50, duplicate_window: 1s, retention: \(retention), tail_vectors: \(tail) }
                """, file: "vectors.yaml")
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        log = try EmbeddedLog(path: folder + "/log", partitions: 2, lingerMicroseconds: 0)
        loop = try ScoringLoop(
            log: log, view: try View(path: folder + "/core"), pipeline: pipeline, model: nil, figures: figures,
            eventsMax: 50)
        relay = Relay(
            source: LogSource(log: log, figures: figures), publisher: bus, log: Log(role: "test", minimum: .error),
            clock: clock)
        key = try SigningKey()
        store = try SnapshotStore(path: folder + "/sealer/snapshots", trusting: key.trusted)
        sealerRegion = try Self.region("sealer", folder, pipeline, bus, clock, store: store, source: nil, key: key)
        sealing.rows = sealRows
        sealing.fanOut = fanOut
        sealer = try Self.sealer(sealerRegion, store, key, sealing, clock)
    }

    private static func sealer(
        _ region: Region, _ store: SnapshotStore, _ key: SigningKey, _ sealing: Sealer.Configuration,
        _ clock: ManualClock
    ) throws -> Sealer {
        try Sealer(
            region, store: store, key: key, configuration: sealing, log: Log(role: "sealer", minimum: .error),
            clock: clock, announce: { _ in })
    }

    /// Another process over the sealer's files.
    func restartedSealer() throws -> Sealer { try Self.sealer(sealerRegion, store, key, sealing, clock) }

    /// A sealer with a folder of its own, and nothing in it.
    func newSealer() throws -> (region: Region, store: SnapshotStore, sealer: Sealer) {
        let store = try SnapshotStore(path: folder + "/sealer-2/snapshots", trusting: key.trusted)
        let region = try Self.region("sealer-2", folder, pipeline, bus, clock, store: store, source: nil, key: key)
        return (region, store, try Self.sealer(region, store, key, sealing, clock))
    }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    private static func region(
        _ name: String, _ folder: String, _ pipeline: Pipeline, _ bus: InProcessBus, _ clock: ManualClock,
        store: SnapshotStore, source: (any SnapshotSource)?, key: SigningKey, snapshotBytesMax: Int? = nil
    ) throws -> Region {
        var configuration = Region.Configuration(name: name, path: "\(folder)/\(name)")
        configuration.isSealer = name.hasPrefix("sealer")
        var place = SnapshotPlace(store: store, source: source, keys: key.trusted)
        place.limits.attemptsMax = 2
        place.limits.backoffMilliseconds = 1
        if let snapshotBytesMax { place.limits.bytesMax = snapshotBytesMax }
        configuration.snapshots = place
        return try Region(
            configuration, pipeline: pipeline, model: nil, bus: bus.makeSubscriber(),
            log: Log(role: name, minimum: .error), clock: clock)
    }

    /// A region with its store and follower.
    struct Edge {
        let region: Region
        let store: SnapshotStore
        let follower: SnapshotFollower
    }

    /// A planned stop and a start. The caller holds nothing else of the old one.
    func restart(_ edge: inout Edge, _ name: String = "eu") throws -> Edge {
        edge.region.close()
        edge = try self.edge(name + "-none")
        return try self.edge(name)
    }

    func edge(
        _ name: String = "eu", source: (any SnapshotSource)? = nil, snapshotBytesMax: Int? = nil,
        _ change: (inout SnapshotFollower.Configuration) -> Void = { _ in }
    ) throws -> Edge {
        let own = try SnapshotStore(
            path: "\(folder)/\(name)/snapshots", trusting: key.trusted, holding: .segments)
        let source = source ?? InProcessSnapshotSource(store)
        let region = try Self.region(
            name, folder, pipeline, bus, clock, store: own, source: source, key: key,
            snapshotBytesMax: snapshotBytesMax)
        var configuration = SnapshotFollower.Configuration()
        change(&configuration)
        let follower = try #require(
            SnapshotFollower(region, configuration: configuration, log: Log(role: name, minimum: .error), clock: clock))
        return Edge(region: region, store: own, follower: follower)
    }

    // MARK: events

    func vector() -> [Float] { (0..<Self.dimensions).map { _ in Float.random(in: -1...1, using: &random) } }

    /// Sends events with these numbers; one that was sent before gets a new vector and is the newest of its id.
    func events(_ ids: some Sequence<Int>, step: Int64 = 10_000) throws {
        var request = AppendRequest()
        for id in ids {
            time += step
            let vector = vector()
            model["e\(id)"] = (vector, time)
            let text = "{\"id\":\"e\(id)\",\"t\":\(time),\"item\":\"i\(id % 7)\",\"vector\":\(vector)}"
            Array(text.utf8).withUnsafeBytes { request.add($0, partition: id % 2) }
        }
        _ = try log.append(request)
        while try loop.step(waitMicroseconds: 1000) != .idle {}
    }

    /// Lets relay and regions run until nothing new comes.
    func run(_ edges: [Edge] = [], rounds: Int = 25) throws {
        for _ in 0..<rounds {
            clock.advance(100_000)
            while try relay.step() {}
            for region in [sealerRegion] + edges.map(\.region) { while try region.step(waitMicroseconds: 0) {} }
        }
    }

    /// Seals all that is due; then the edges follow.
    func seal(_ edges: [Edge] = []) throws {
        while try sealer.step() {}
        for edge in edges { while edge.follower.step() {} }
    }

    // MARK: what must hold

    /// Each id is found by its own vector, first, once, with what was sent last; nothing else is there.
    func expectWhole(
        _ region: Region, since: Int64 = .min, effort: SearchEffort = .recall(0.99),
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let replica = try #require(region.replica, sourceLocation: sourceLocation)
        let collection = replica.vectors.collection(0)
        let kept = model.filter { $0.value.time >= since }
        #expect(collection.count == kept.count, sourceLocation: sourceLocation)
        var searcher = CollectionSearcher()
        var missing = 0
        for (id, event) in kept {
            let found = try collection.search(event.vector, k: 3, effort: effort, with: &searcher)
            let ids = try found.map { neighbour in
                try EventKey(time: neighbour.row.time, place: neighbour.row.id).withRow(tenant: "default") { key in
                    try replica.view.store.get(key) { EventRow($0).map { String(decoding: $0.id, as: UTF8.self) } }
                } ?? nil
            }
            if ids.first != id || found.first?.distance != 0 || ids.contains(nil) || Set(ids).count != ids.count {
                missing += 1
            }
        }
        #expect(missing == 0, "not found first by their own vectors", sourceLocation: sourceLocation)
        for partition in 0..<2 {
            let own = figures.current.positions[partition]
            #expect(replica.frontier[partition]?.digest == own?.digest, sourceLocation: sourceLocation)
        }
    }

    /// Published by hand: what a broken or hostile sealer would publish.
    func forge(
        by key: SigningKey? = nil, _ change: (inout SnapshotManifest) throws -> Void
    ) throws -> SignedManifest {
        var manifest = try #require(try store.current).manifest
        manifest.number += 1
        try change(&manifest)
        return try SignedManifest(manifest, by: key ?? self.key)
    }
}

/// Numbers from a seed. Method: SplitMix64.
struct Seeded: RandomNumberGenerator {
    private var state: UInt64

    init(_ seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

/// Offers what a test says, and serves files from a store.
///
/// `@unchecked Sendable`: one thread of a test sets the envelope before anybody asks for it.
final class ForgedSource: SnapshotSource, @unchecked Sendable {
    var files: InProcessSnapshotSource
    var envelope: [UInt8]?

    init(_ store: SnapshotStore) { files = InProcessSnapshotSource(store) }

    func latest() throws -> [UInt8]? { envelope }
    func chunk(of file: SnapshotFile, offset: Int, length: Int) throws -> [UInt8] {
        try files.chunk(of: file, offset: offset, length: length)
    }
}
