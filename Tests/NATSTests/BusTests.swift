import Changes
import Foundation
import NATS
import Replicate
import Service
import Testing

/// One partition's log in memory, of batches that say nothing but who they are.
struct ShortLog: ChangelogSource {
    let lineage = Lineage(high: 7, low: 11)
    let partitions = 1
    let count: UInt64

    func end(of partition: Int) -> UInt64 { count }

    func batches(of partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool) throws
    {
        var writer = ChangeBatchWriter(capacity: 256)
        for seq in seq + 1..<max(count, seq) + 1 {
            writer.begin(frontier: [PartitionPosition]())
            let header = ChangeBatchHeader(
                lineage: lineage, partition: 0, seq: seq, firstOffset: seq - 1, endOffset: seq, commitTime: 1,
                watermark: 1, schema: 1, scored: 1)
            guard try writer.encode(header, digestAfter: 0, { bytes, _ in try visit(seq, bytes) }) else { return }
        }
    }

    func head(of partition: Int) -> Heartbeat.Head? {
        Heartbeat.Head(partition: 0, seq: count, digest: 0, commitTime: 1, watermark: 1)
    }
}

/// What a replica took from the bus, in the order of arrival.
struct Taken {
    var seqs: [UInt64] = []
    var busSequences: [UInt64] = []
    var heartbeats = 0
    var reconnects = 0
}

@Suite(
    .serialized, .timeLimit(.minutes(5)),
    .enabled(
        if: TestBus.program != nil, "the bus is NOT tested: nats-server is not installed (make setup)"))
struct BusTests {
    let log = Log(role: "test", minimum: .error)

    /// Streams reserve their room: many small ones fit a server.
    let stream = {
        var stream = JetStreamPublisher.StreamConfiguration()
        stream.bytesMax = 16 << 20
        return stream
    }()

    /// A publisher whose stream is there.
    func publisher(_ bus: TestBus) throws -> JetStreamPublisher {
        let publisher = try JetStreamPublisher(url: bus.url, pipeline: "sample", log: log, stream: stream)
        try #require(eventually { publisher.isConnected })
        return publisher
    }

    func subscriber(_ bus: TestBus) throws -> JetStreamSubscriber {
        let subscriber = try JetStreamSubscriber(url: bus.url, pipeline: "sample", region: "eu")
        try #require(eventually { subscriber.isConnected })
        return subscriber
    }

    /// Each batch is sent twice under its id, as two relays would.
    func publishTwice(_ seqs: ClosedRange<UInt64>, by publisher: JetStreamPublisher) throws {
        try ShortLog(count: seqs.upperBound).batches(of: 0, after: seqs.lowerBound - 1) { seq, bytes in
            for _ in 0..<2 {
                try #require(
                    try eventually { try publisher.publish(bytes, partition: 0, messageId: "sample:0:\(seq)") })
            }
            return true
        }
    }

    func take(_ message: BusMessage, into taken: inout Taken) throws {
        switch message {
        case .batch(let bytes, let sequence):
            let batch = try bytes.withUnsafeBytes { try ChangeBatch(decoding: $0) }
            taken.seqs.append(batch.header.seq)
            taken.busSequences.append(sequence)
        case .heartbeat: taken.heartbeats += 1
        case .reconnected: taken.reconnects += 1
        }
    }

    /// Takes what comes until `isEnough`.
    func take(from subscriber: JetStreamSubscriber, into taken: inout Taken, until isEnough: (Taken) -> Bool) throws {
        try #require(
            try eventually {
                while let message = subscriber.next(waitMicroseconds: 50_000) { try take(message, into: &taken) }
                return isEnough(taken)
            }, "only \(taken)")
    }

    @Test func aKilledServerLosesNothingAndRepeatsNothing() throws {
        let bus = try TestBus()
        let publisher = try publisher(bus)
        let subscriber = try subscriber(bus)
        defer { subscriber.close() }
        var taken = Taken()
        try subscriber.subscribe(after: 0)
        try publishTwice(1...20, by: publisher)
        try take(from: subscriber, into: &taken) { $0.seqs.count >= 20 }
        #expect(taken.seqs == Array(1...20) && taken.busSequences == Array(1...20))

        bus.kill()
        try #require(eventually { !publisher.isConnected && !subscriber.isConnected })
        #expect(try !publisher.publish(UnsafeRawBufferPointer(start: nil, count: 0), partition: 0, messageId: "x"))
        try bus.start()
        try #require(eventually { publisher.isConnected && subscriber.isConnected })
        try take(from: subscriber, into: &taken) { $0.reconnects > 0 }
        let last = try #require(try publisher.lastPublished(partition: 0))
        #expect(last.seq == 20)
        // As a region does: it comes back by position, and asks again where the bus is not ready.
        try #require(eventually { (try? subscriber.subscribe(after: taken.busSequences.last)) != nil })
        // What a relay sends again after its own start is known to the bus.
        try publishTwice(11...40, by: publisher)
        try take(from: subscriber, into: &taken) { $0.seqs.count >= 40 }
        // Whatever else was on its way comes before an answer to what is sent last.
        try publishTwice(41...41, by: publisher)
        try take(from: subscriber, into: &taken) { $0.seqs.contains(41) }
        #expect(taken.seqs == Array(1...41))
        #expect(taken.busSequences == Array(1...41))
        publisher.close()
    }

    /// Asked for once, in the first moment of a relay's life: it is there when its `init` returns.
    /// A world's server takes the largest batch; one with its own settings takes 1 MiB, and the error says what to do.
    @Test(arguments: [true, false])
    func theLargestBatchCrossesOrTheErrorSaysWhyNot(configured: Bool) throws {
        let bus = try TestBus(configured: configured)
        let publisher = try publisher(bus)
        let bytes = [UInt8](repeating: 7, count: ChangeBatch.encodedBytesMax - 4096)
        func publish() throws -> Bool {
            try bytes.withUnsafeBytes { try publisher.publish($0, partition: 0, messageId: "sample:0:1") }
        }
        if configured {
            #expect(try eventually { try publish() })
            publisher.close()
            #expect(publisher.failedPublishCount == 0)
        } else {
            let error = try #require(throws: BatchTooLarge.self) { try publish() }
            #expect(error.bytes == bytes.count && error.limit == 1 << 20 && "\(error)".contains("max_payload"))
        }
    }

    @Test func aRepairIsAnswered() throws {
        let bus = try TestBus()
        let source = ShortLog(count: 20)
        for round in 0..<20 {
            let subscriber = try JetStreamSubscriber(url: bus.url, pipeline: "sample\(round)", region: "eu")
            defer { subscriber.close() }
            let publisher = try JetStreamPublisher(url: bus.url, pipeline: "sample\(round)", log: log, stream: stream)
            try subscriber.request(RepairRequest(lineage: source.lineage, partition: 0, after: 4, through: 9))
            let relay = Relay(source: source, publisher: publisher, log: log)
            var taken = Taken()
            try #require(
                try eventually {
                    while try relay.step() {}
                    while let message = subscriber.next(waitMicroseconds: 1000) { try take(message, into: &taken) }
                    return taken.seqs.count >= 5 && taken.heartbeats > 0
                }, "round \(round): only \(taken)")
            #expect(taken.seqs == Array(5...9), "nothing but the answer: this replica has not subscribed")
            #expect(taken.busSequences == [0, 0, 0, 0, 0])
            #expect(relay.figures.repairs == 5)
            publisher.close()
        }
    }

    /// A question that no relay hears is no answer: the server says so with an empty message, which is no batch.
    @Test func aRepairWithoutARelayIsSilent() throws {
        let bus = try TestBus()
        let subscriber = try subscriber(bus)
        defer { subscriber.close() }
        let source = ShortLog(count: 20)
        let request = RepairRequest(lineage: source.lineage, partition: 0, after: 4, through: 9)
        for _ in 0..<3 { try subscriber.request(request) }
        let relay = Relay(source: source, publisher: try publisher(bus), log: log)
        var taken = Taken()
        // What the server said to those comes before the answer to this.
        try subscriber.request(request)
        try #require(
            try eventually {
                while try relay.step() {}
                while let message = subscriber.next(waitMicroseconds: 1000) { try take(message, into: &taken) }
                return taken.seqs.count >= 5
            }, "only \(taken)")
        #expect(taken.seqs == Array(5...9))
    }

    /// Before there is a stream a subscription fails and says why; later ones take the place of those before them.
    @Test(arguments: [true, false])
    func subscribesAgainAndAgain(configured: Bool) throws {
        let bus = try TestBus(configured: configured)
        let subscriber = try subscriber(bus)
        defer { subscriber.close() }
        #expect(throws: NATSError.self) { try subscriber.subscribe(after: 0) }
        let publisher = try publisher(bus)
        try publishTwice(1...3, by: publisher)
        for round in 1...3 {
            try subscriber.subscribe(after: 0)
            var taken = Taken()
            try take(from: subscriber, into: &taken) { $0.seqs.count >= 3 }
            #expect(taken.seqs == [1, 2, 3], "round \(round)")
        }
        bus.kill()
        try bus.start()
        try #require(eventually { publisher.isConnected && subscriber.isConnected })
        try subscriber.subscribe(after: 1)
        var taken = Taken()
        try take(from: subscriber, into: &taken) { $0.seqs.count >= 2 }
        #expect(taken.seqs == [2, 3])
        publisher.close()
    }
}
