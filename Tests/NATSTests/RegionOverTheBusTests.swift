import CNATS
import Changes
import Core
import Edge
import Features
import Foundation
import NATS
import Replicate
import Service
import Storage
import Testing

/// The core's own log, as its relay reads it.
private struct LogSource: ChangelogSource {
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
        .init(
            partition: UInt32(partition), seq: end(of: partition),
            digest: figures.current.positions[partition]?.digest ?? 0, commitTime: 0, watermark: 0)
    }
}

/// A region behind a real nats-server whose store is lost, cut or deleted under it.
@Suite(
    .serialized, .timeLimit(.minutes(5)),
    .enabled(if: TestBus.program != nil, "the bus is NOT tested: nats-server is not installed (make setup)"))
struct RegionOverTheBusTests {
    private let quiet = Log(role: "test", minimum: .error)
    private let folder = NSTemporaryDirectory() + "/bus-\(UUID().uuidString)"
    private let pipeline: Pipeline
    private let log: EmbeddedLog
    private let loop: ScoringLoop
    private let figures = CoreFigures()
    private let bus: TestBus
    private var stream = JetStreamPublisher.StreamConfiguration()

    init() throws {
        pipeline = try Pipeline(
            text: """
                pipeline: sample
                event: { id: id, time: { path: t, unit: us } }
                entities: { customer: { path: customer } }
                fields: { amount: { type: number } }
                features:
                  - value: amount
                  - windows: { entity: customer, of: amount, over: [24h], compute: [count, mean] }
                """, file: "sample.yaml")
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        log = try EmbeddedLog(path: folder + "/log", partitions: 2, lingerMicroseconds: 0)
        loop = try ScoringLoop(
            log: log, view: try View(path: folder + "/core"), pipeline: pipeline, model: nil, figures: figures,
            eventsMax: 10)
        bus = try TestBus()
        stream.bytesMax = 16 << 20
    }

    private func relay() throws -> (Relay, JetStreamPublisher) {
        let publisher = try JetStreamPublisher(url: bus.url, pipeline: "sample", log: quiet, stream: stream)
        return (Relay(source: LogSource(log: log, figures: figures), publisher: publisher, log: quiet), publisher)
    }

    private func region() throws -> Region {
        try Region(
            .init(name: "eu", path: folder + "/eu"), pipeline: pipeline, model: nil,
            bus: JetStreamSubscriber(url: bus.url, pipeline: "sample", region: "eu"), log: quiet)
    }

    private func events(_ range: Range<Int>) throws {
        var request = AppendRequest()
        for id in range {
            let text =
                "{\"id\":\"e\(id)\",\"t\":\(1_700_000_000_000_000 + id * 1000),\"customer\":\"c\(id % 5)\",\"amount\":1}"
            Array(text.utf8).withUnsafeBytes { request.add($0, partition: id % 2) }
        }
        _ = try log.append(request)
        while try loop.step(waitMicroseconds: 1000) != .idle {}
    }

    private func isWhole(_ region: Region) -> Bool {
        region.positions.count == 2
            && region.positions.enumerated().allSatisfy { partition, position in
                guard let own = figures.current.positions[partition] else { return false }
                return position.seq == own.seq && position.digest == own.digest
            }
    }

    /// Lets all run until the region holds everything that the log has.
    private func settle(_ relays: [Relay], _ region: Region, seconds: Double = 60) throws {
        let whole = try eventually(seconds: seconds) {
            for relay in relays { while try relay.step() {} }
            for _ in 0..<200 where try region.step(waitMicroseconds: 500) {}
            return isWhole(region)
        }
        try #require(whole, "\(region.positions.map(\.seq))")
    }

    /// The server comes back with nothing: the stream is made again, and is followed again, not only repaired around.
    @Test func aStoreThatIsLostIsMadeAgain() throws {
        let (relay, publisher) = try relay()
        let region = try region()
        try events(0..<400)
        try settle([relay], region)
        bus.kill()
        try FileManager.default.removeItem(atPath: bus.folder + "/store")
        try events(400..<500)
        try bus.start()
        try settle([relay], region)
        try events(500..<600)
        try settle([relay], region)
        let repairs = region.figures.repairs
        for round in 6..<16 {
            try events((round * 100)..<(round * 100 + 100))
            try settle([relay], region)
        }
        #expect(region.figures.repairs == repairs, "the stream brings everything")
        region.close()
        publisher.close()
    }

    /// An operator deletes the stream while everybody is connected.
    @Test func aStreamThatIsDeletedIsMadeAgain() throws {
        let (relay, publisher) = try relay()
        let region = try region()
        try events(0..<200)
        try settle([relay], region)
        try deleteStream()
        for round in 2..<30 {
            try events((round * 100)..<(round * 100 + 100))
            try settle([relay], region)
        }
        let repairs = region.figures.repairs
        #expect(repairs > 0)
        for round in 30..<40 {
            try events((round * 100)..<(round * 100 + 100))
            try settle([relay], region)
        }
        #expect(region.figures.repairs == repairs, "the stream brings everything")
        region.close()
        publisher.close()
    }

    private func deleteStream() throws {
        try withStream { context, name in #expect(js_DeleteStream(context, name, nil, nil) == NATS_OK) }
    }

    /// Batches that the stream was ever given.
    private func lastSequence() throws -> UInt64 {
        try withStream { context, name in
            var info: UnsafeMutablePointer<jsStreamInfo>?
            #expect(js_GetStreamInfo(&info, context, name, nil, nil) == NATS_OK)
            defer { jsStreamInfo_Destroy(info) }
            return info?.pointee.State.LastSeq ?? 0
        }
    }

    /// The one stream of the server, as an operator's tool reaches it.
    private func withStream<Result>(_ body: (OpaquePointer?, UnsafePointer<CChar>) throws -> Result) throws -> Result {
        var connection: OpaquePointer?
        var context: OpaquePointer?
        #expect(natsConnection_ConnectTo(&connection, bus.url) == NATS_OK)
        defer { natsConnection_Destroy(connection) }
        #expect(natsConnection_JetStream(&context, connection, nil) == NATS_OK)
        defer { jsCtx_Destroy(context) }
        var names: UnsafeMutablePointer<jsStreamNamesList>?
        #expect(js_StreamNames(&names, context, nil, nil) == NATS_OK)
        defer { jsStreamNamesList_Destroy(names) }
        let name = try #require(names?.pointee.List[0])
        return try body(context, name)
    }

    /// A region comes back when the stream has long dropped what it misses: by range from the log.
    @Test func aRegionBehindTheStreamsRetentionIsRepairedFromTheLog() throws {
        var test = self
        test.stream.bytesMax = 64 << 10
        let (relay, publisher) = try test.relay()
        do {
            let region = try region()
            try events(0..<100)
            try settle([relay], region)
            region.close()
        }
        // Some megabytes pass through a stream of 64 KiB.
        for round in 1..<60 {
            try events((round * 400)..<(round * 400 + 400))
            while try relay.step() {}
        }
        let region = try region()
        try settle([relay], region)
        #expect(region.figures.repairs > 0)
        region.close()
        publisher.close()
    }

    /// Two relays of one log race: what both send is one message, by its id.
    @Test func twoRelaysAreAsGoodAsOne() throws {
        let ((first, one), (second, two)) = (try relay(), try relay())
        let region = try region()
        for round in 0..<20 {
            try events((round * 50)..<(round * 50 + 50))
            try settle([first, second], region)
        }
        #expect(figures.current.scored == 1000 && region.figures.events == 1000)
        #expect(first.figures.batches + second.figures.batches > figures.current.batches, "both have sent")
        // What is on its way when the last batch was applied: the other relay's copies of it.
        let batches = figures.current.batches
        #expect(try eventually { try lastSequence() == batches })
        region.close()
        one.close()
        two.close()
    }
}
