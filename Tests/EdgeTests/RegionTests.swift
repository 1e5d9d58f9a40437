import Changes
import Core
import Edge
import Features
import Foundation
import Replicate
import Service
import Storage
import Testing

/// A relay's source over the real log.
struct LogSource: ChangelogSource {
    let log: EmbeddedLog
    let figures: CoreFigures
    var lineage: Lineage { log.lineage }
    var partitions: Int { log.partitions }
    func end(of partition: Int) -> UInt64 { log.changelogEnd(of: partition) ?? 0 }
    func batches(of partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool) throws
    {
        try log.changelog(of: partition, after: seq, visit)
    }
    func head(of partition: Int) -> Heartbeat.Head? {
        let position = figures.current.positions[partition]
        return .init(
            partition: UInt32(partition), seq: end(of: partition), digest: position?.digest ?? 0, commitTime: 0,
            watermark: 0)
    }
}

/// A clock that a test moves.
///
/// `@unchecked Sendable`: guarded by the lock.
final class ManualClock: WallClock, @unchecked Sendable {
    private let lock = NSLock()
    private var time: Int64 = 1_800_000_000_000_000
    var now: Int64 { lock.withLock { time } }
    var unset: Int64 { now }
    func advance(_ microseconds: Int64) { lock.withLock { time += microseconds } }
}

/// Hands heartbeats over before the batches that they speak of.
///
/// `@unchecked Sendable`: one thread of a test uses it.
final class HeartbeatsFirst: DeltaSubscriber, @unchecked Sendable {
    let inner: any DeltaSubscriber
    private var waiting: [BusMessage] = []

    init(inner: any DeltaSubscriber) { self.inner = inner }

    var isConnected: Bool { inner.isConnected }
    func next(waitMicroseconds: Int) -> BusMessage? {
        while let message = inner.next(waitMicroseconds: 0) {
            if case .heartbeat = message { waiting.insert(message, at: 0) } else { waiting.append(message) }
        }
        return waiting.isEmpty ? nil : waiting.removeFirst()
    }
    func request(_ repair: RepairRequest) throws { try inner.request(repair) }
    func subscribe(after busSequence: UInt64?) throws { try inner.subscribe(after: busSequence) }
    func subscribeFromStart() throws { try inner.subscribeFromStart() }
}

/// Refuses every request on command.
///
/// `@unchecked Sendable`: one thread of a test uses it.
final class RefusingBus: DeltaSubscriber, @unchecked Sendable {
    struct Refusal: Error {}
    let inner: any DeltaSubscriber
    var refuses = true
    private(set) var refusals = 0

    init(inner: any DeltaSubscriber) { self.inner = inner }

    var isConnected: Bool { inner.isConnected }
    func next(waitMicroseconds: Int) -> BusMessage? { inner.next(waitMicroseconds: waitMicroseconds) }
    func request(_ repair: RepairRequest) throws {
        guard !refuses else {
            refusals += 1
            throw Refusal()
        }
        try inner.request(repair)
    }
    func subscribe(after busSequence: UInt64?) throws { try inner.subscribe(after: busSequence) }
    func subscribeFromStart() throws { if refuses { throw Refusal() } else { try inner.subscribeFromStart() } }
}

/// Alters one batch on its way, so well that its checksum holds: a region that takes it is not what the log says.
///
/// `@unchecked Sendable`: one thread of a test uses it.
final class LyingBus: DeltaSubscriber, @unchecked Sendable {
    let inner: any DeltaSubscriber
    /// Of partition 0.
    var lie: UInt64?

    init(inner: any DeltaSubscriber) { self.inner = inner }

    var isConnected: Bool { inner.isConnected }
    func next(waitMicroseconds: Int) -> BusMessage? {
        let message = inner.next(waitMicroseconds: waitMicroseconds)
        guard case .batch(let bytes, let sequence) = message, let lie,
            let batch = try? bytes.withUnsafeBytes({ try ChangeBatch(decoding: $0) }), batch.header.partition == 0,
            batch.header.seq == lie
        else { return message }
        self.lie = nil
        var writer = ChangeBatchWriter(capacity: 256)
        writer.begin(frontier: [PartitionPosition]())
        var header = batch.header
        (header.scored, header.duplicates, header.deadLetters) = (0, 0, 0)
        header.gaps = UInt32(header.endOffset - header.firstOffset)
        return .batch(writer.encode(header, digestAfter: 0) { bytes, _ in Array(bytes) }, busSequence: sequence)
    }
    func request(_ repair: RepairRequest) throws { try inner.request(repair) }
    func subscribe(after busSequence: UInt64?) throws { try inner.subscribe(after: busSequence) }
    func subscribeFromStart() throws { try inner.subscribeFromStart() }
}

@Suite struct RegionTests {
    let folder = NSTemporaryDirectory() + "/region-\(UUID().uuidString)"
    let pipeline: Pipeline
    let log: EmbeddedLog
    let loop: ScoringLoop
    let figures = CoreFigures()
    let bus = InProcessBus()
    let clock = ManualClock()
    let relay: Relay

    init() throws {
        pipeline = try Pipeline(
            text: """
                pipeline: sample
                event: { id: id, time: { path: t, unit: us } }
                entities: { customer: { path: customer }, terminal: { path: terminal, shared: true } }
                fields: { amount: { type: number } }
                features:
                  - value: amount
                  - windows: { entity: customer, of: amount, over: [24h], compute: [count, mean] }
                  - windows: { entity: terminal, over: [24h], compute: [count] }
                """, file: "sample.yaml")
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        log = try EmbeddedLog(path: folder + "/log", partitions: 2, lingerMicroseconds: 0)
        loop = try ScoringLoop(
            log: log, view: try View(path: folder + "/core"), pipeline: pipeline, model: nil, figures: figures,
            eventsMax: 10)
        relay = Relay(
            source: LogSource(log: log, figures: figures), publisher: bus, log: Log(role: "test", minimum: .error),
            clock: clock)
    }

    func region(_ name: String) throws -> Region {
        try Region(
            .init(name: name, path: folder + "/" + name), pipeline: pipeline, model: nil, bus: bus.makeSubscriber(),
            log: Log(role: name, minimum: .error), clock: clock)
    }

    func events(_ range: Range<Int>) throws {
        var request = AppendRequest()
        for id in range {
            let text =
                "{\"id\":\"e\(id)\",\"t\":\(1_700_000_000_000_000 + id * 1_000_000),\"customer\":\"c\(id % 5)\",\"terminal\":\"m\(id % 3)\",\"amount\":\(id)}"
            Array(text.utf8).withUnsafeBytes { request.add($0, partition: id % 2) }
        }
        _ = try log.append(request)
        while try loop.step(waitMicroseconds: 1000) != .idle {}
    }

    /// Lets relay and regions run until the regions say nothing new.
    func run(_ regions: [Region], rounds: Int = 60) throws {
        for _ in 0..<rounds {
            clock.advance(100_000)
            while try relay.step() {}
            for region in regions { while try region.step(waitMicroseconds: 0) {} }
        }
    }

    func expectEqual(_ region: Region) throws {
        for partition in 0..<2 {
            let own = try #require(figures.current.positions[partition])
            #expect(region.positions[partition].seq == own.seq && region.positions[partition].digest == own.digest)
        }
    }

    @Test func followsTheLog() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let region = try region("eu")
        #expect(region.status.state(now: clock.now) == .bootstrapping)
        try events(0..<200)
        try run([region])
        try expectEqual(region)
        #expect(region.status.state(now: clock.now) == .fresh)
        #expect(region.figures.divergences == 0)
    }

    /// Each figure of a region, and its store's memory, in the text that a scraper reads.
    @Test func figuresAsText() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let region = try region("eu")
        let routes = EdgeRoutes(region, clock: clock)
        #expect(routes.metricsText().contains("# TYPE tideline_store_memory_bytes gauge\n"))
        try events(0..<20)
        try run([region])
        let lines = routes.metricsText().split(separator: "\n").map(String.init)
        #expect(lines.contains("tideline_edge_events_total{region=\"eu\"} 20"))
        #expect(lines.contains("# HELP tideline_store_memory_bytes Memory of RocksDB, by store and part."))
        for part in ["memtables", "memtables_read", "files", "cache", "cache_pinned"] {
            let start = "tideline_store_memory_bytes{region=\"eu\",store=\"view\",part=\"\(part)\"} "
            let value = try #require(lines.first { $0.hasPrefix(start) }?.dropFirst(start.count))
            let bytes = try #require(UInt64(value))
            if part == "memtables" { #expect(bytes > 0) }
        }
    }

    @Test func aBusThatLosesBatchesIsRepaired() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let regions = try [region("eu"), region("us")]
        bus.lose { _, count in count % 3 == 0 }
        for start in stride(from: 0, to: 400, by: 40) {
            try events(start..<start + 40)
            try run(regions, rounds: 5)
        }
        try run(regions)
        for region in regions {
            try expectEqual(region)
            #expect(region.figures.repairs > 0)
        }
    }

    @Test func silenceReadsAsStaleAndTheWayBackAsFresh() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let region = try region("eu")
        try events(0..<20)
        try run([region])
        #expect(region.status.state(now: clock.now) == .fresh)
        // The core is silent: its relay does not run.
        for _ in 0..<40 {
            clock.advance(100_000)
            try region.step(waitMicroseconds: 0)
        }
        #expect(region.status.state(now: clock.now) == .stale)
        #expect((region.status.stalenessMilliseconds(now: clock.now) ?? 0) > 3000)
        bus.setConnected(false)
        try region.step(waitMicroseconds: 0)
        #expect(region.status.state(now: clock.now) == .isolated)
        bus.setConnected(true)
        try events(20..<60)
        try run([region])
        #expect(region.status.state(now: clock.now) == .fresh)
        try expectEqual(region)
    }

    /// Under load a heartbeat is always ahead of what has been applied: what it said is reached a moment later, and from
    /// then on the answers are as of that heartbeat, by both clocks.
    @Test func whatAnAnswerIsAsOfGoesWithItsStaleness() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let subscriber = bus.makeSubscriber()
        let region = try Region(
            .init(name: "eu", path: folder + "/eu"), pipeline: pipeline, model: nil,
            bus: HeartbeatsFirst(inner: subscriber), log: Log(role: "eu", minimum: .error), clock: clock)
        var last: Int64 = 0
        for start in stride(from: 0, to: 120, by: 20) {
            try events(start..<start + 20)
            clock.advance(1_000_000)
            while try relay.step() {}
            while try region.step(waitMicroseconds: 0) {}
            // How old the first one was is not known: no older than the region.
            if start > 0 { #expect(region.status.completeAt == clock.now) }
            #expect(region.status.asOf == clock.now)
            #expect(region.status.asOf > last)
            last = region.status.asOf
        }
        try expectEqual(region)
    }

    /// Heartbeats that waited while a region stood still are as old as they are: it is not fresh until it has read one that
    /// was sent lately, whether the relay that spoke is known or has just begun.
    @Test(arguments: [false, true]) func whatWaitedIsNotFresh(_ another: Bool) throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let region = try region("eu")
        try events(0..<20)
        try run([region])
        #expect(region.status.state(now: clock.now) == .fresh)
        bus.lose { _, _ in true }
        let relay = try another ? self.another() : self.relay
        for second in 0..<10 {
            if second == 5 { try events(20..<60) }
            clock.advance(1_000_000)
            while try relay.step() {}
        }
        // One by one: before the sixth, nothing says that anything is missing.
        for _ in 0..<8 {
            #expect(try region.step(waitMicroseconds: 0))
            #expect(region.status.state(now: clock.now) != .fresh)
        }
        while try region.step(waitMicroseconds: 0) {}
        #expect(region.status.state(now: clock.now) != .fresh)
        bus.lose(nil)
        for _ in 0..<30 {
            clock.advance(100_000)
            while try relay.step() {}
            while try region.step(waitMicroseconds: 0) {}
        }
        #expect(region.status.state(now: clock.now) == .fresh)
        try expectEqual(region)
    }

    private func another() throws -> Relay {
        Relay(
            source: LogSource(log: log, figures: figures), publisher: bus, log: Log(role: "test", minimum: .error),
            clock: clock)
    }

    /// A bus that refuses requests delays a repair; it does not end the region.
    /// A replica that is not what the log says notices by its digest, says that it is stale, serves, and is made anew beside
    /// itself; another start finds the new copy.
    @Test func aDivergedReplicaIsMadeAnew() throws {
        let liar = LyingBus(inner: bus.makeSubscriber())
        let make = { (bus: any DeltaSubscriber) in
            try Region(
                .init(name: "eu", path: folder + "/eu"), pipeline: pipeline, model: nil, bus: bus,
                log: Log(role: "eu", minimum: .error), clock: clock)
        }
        do {
            let region = try make(liar)
            try events(0..<60)
            try run([region])
            try expectEqual(region)
            liar.lie = (figures.current.positions[0]?.seq ?? 0) + 1
            try events(60..<80)
            // What the bus brings is taken, then the heartbeats say that it was wrong.
            var states: Set<RegionState> = []
            for _ in 0..<200 where region.figures.divergences < 3 || region.status.hasDiverged {
                try run([region], rounds: 1)
                states.insert(region.status.state(now: clock.now))
                #expect(region.status.hasView, "it serves all the time")
            }
            #expect(region.figures.divergences >= 3 && states.contains(.stale))
            try run([region])
            #expect(!region.status.hasDiverged && region.status.state(now: clock.now) == .fresh)
            try expectEqual(region)
            let folders = try FileManager.default.contentsOfDirectory(atPath: folder + "/eu")
            #expect(folders.contains("\(log.lineage).1") && !folders.contains("\(log.lineage)"))
            region.close()
        }
        let again = try make(bus.makeSubscriber())
        try expectEqual(again)
        try events(80..<100)
        try run([again])
        try expectEqual(again)
        #expect(again.figures.divergences == 0)
    }

    @Test func aBusThatRefusesRequestsEndsNothing() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let refusing = RefusingBus(inner: bus.makeSubscriber())
        let region = try Region(
            .init(name: "eu", path: folder + "/eu"), pipeline: pipeline, model: nil, bus: refusing,
            log: Log(role: "eu", minimum: .error), clock: clock)
        bus.lose { _, count in count % 2 == 0 }
        try events(0..<80)
        try run([region])
        #expect(refusing.refusals > 0 && region.positions.contains { $0.seq < 4 })
        refusing.refuses = false
        try run([region])
        try expectEqual(region)
    }

    @Test func aRestartedRegionGoesOn() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        do {
            let region = try region("eu")
            try events(0..<100)
            try run([region])
            region.close()
        }
        try events(100..<160)
        let again = try region("eu")
        #expect(again.positions.contains { $0.seq > 0 })
        try run([again])
        try expectEqual(again)
    }
}

@Suite struct ReadTokenTests {
    @Test func readsWhatIngestWrites() {
        let lineage = Lineage(high: 5, low: 6)
        let token = ReadToken("\(lineage):0=12,3=4")
        #expect(token == ReadToken(lineage: lineage, offsets: [0: 12, 3: 4]))
        for bad in ["", "x", "\(lineage)", "\(lineage):0", "\(lineage):a=1", "\(lineage):-1=2"] {
            #expect(ReadToken(bad) == nil)
        }
    }
}
