import Changes
import Core
import Features
import Foundation
import Service
import Storage
import Testing

@testable import Kafka

/// HOST:PORT of a real broker.
let broker = ProcessInfo.processInfo.environment["TIDELINE_TEST_KAFKA"]

let pipelineText = """
    pipeline: NAME
    event: { id: id, time: { path: t, unit: us } }
    entities:
      customer: { path: customer }
      terminal: { path: terminal, shared: true }
    fields: { amount: { type: number, required: true } }
    features:
      - value: amount
      - since_last: [customer, terminal]
      - windows: { entity: customer, of: amount, over: [5m, 24h], compute: [count, mean, max] }
      - windows: { entity: terminal, of: amount, over: [1h, 30d], compute: [count, sum] }
    """

/// Topics of one test's own, and cores that share them.
final class KafkaWorld {
    let configuration: KafkaConfiguration
    let pipeline: Pipeline
    let folder = NSTemporaryDirectory() + "/kafka-\(UUID().uuidString)"
    let log = Log(role: "test", minimum: .error)
    let partitions = 3

    init() throws {
        let name = "t" + UUID().uuidString.prefix(8).lowercased()
        configuration = KafkaConfiguration(
            bootstrapServers: broker ?? "", pipeline: name, input: "\(name).events")
        pipeline = try Pipeline(text: pipelineText.replacing("NAME", with: name), file: "test.yaml")
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        #expect(try KafkaTopics(configuration, log: log).create(partitions: partitions).count == 5)
    }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    func core(slot: Int, beside: Bool = true, eventsMax: Int = 50, begin: KafkaLog.Beginning = .earliest) throws -> Core
    { try core(place: .slot(slot), beside: beside, eventsMax: eventsMax, begin: begin) }

    func core(
        place: KafkaLog.Place, beside: Bool = true, eventsMax: Int = 50, begin: KafkaLog.Beginning = .earliest,
        acceptsGap: Bool = false
    ) throws -> Core {
        try Core(
            self, place: place, view: "\(folder)/view-\(UUID().uuidString)", beside: beside, eventsMax: eventsMax,
            begin: begin, acceptsGap: acceptsGap)
    }

    func event(_ id: Int, terminal: Int) -> String {
        "{\"id\":\"e\(id)\",\"t\":\(1_700_000_000_000_000 + id * 1_000_000),\"customer\":\"c\(id % 7)\","
            + "\"terminal\":\"m\(terminal)\",\"amount\":\(Double(id % 90) + 0.5)}"
    }

    /// Waits until the brokers have written the ends of all transactions, which they acknowledge before.
    private func awaitMarkers() throws {
        let committed = try KafkaClient(.consumer, configuration.reading("test", fetchWait: 10))
        let all = try KafkaClient(
            .consumer,
            configuration.reading("test", fetchWait: 10).merging(["isolation.level": "read_uncommitted"]) { $1 })
        for partition in 0..<partitions {
            let deadline = Date(timeIntervalSinceNow: 30)
            while try committed.watermarks(configuration.changes, partition).high
                < all.watermarks(configuration.changes, partition).high
            {
                try #require(Date() < deadline, "a transaction stays open")
                Thread.sleep(forTimeInterval: 0.005)
            }
        }
    }

    /// Everything that the log holds, by id: how often, and the rows as bits.
    func committed() throws -> [String: [[UInt32]]] {
        try awaitMarkers()
        let reader = try KafkaLogReader(configuration, founds: false, log: log)
        var rows: [String: [[UInt32]]] = [:]
        for partition in 0..<partitions {
            var expected: UInt64 = 1
            var position: UInt64 = 0
            try reader.changelog(of: partition, after: 0) { seq, encoded in
                let batch = try ChangeBatch(decoding: encoded)
                #expect(seq == expected && batch.header.firstOffset == position, "seq is dense, positions follow")
                expected = seq + 1
                position = batch.header.endOffset
                batch.forEachChange { change in
                    guard change.kind == .event, let record = EventRecord(change.value) else { return }
                    let id = String(decoding: change.tenantAndRest.rest, as: UTF8.self)
                    rows[id, default: []].append((0..<record.featureCount).map { record.feature($0).bitPattern })
                }
                return true
            }
        }
        return rows
    }

    /// One worker.
    final class Core {
        let log: KafkaLog
        let loop: ScoringLoop
        let figures = CoreFigures()
        private(set) var outcomes: [ScoringLoop.Outcome] = []

        init(
            _ world: KafkaWorld, place: KafkaLog.Place, view: String, beside: Bool, eventsMax: Int,
            begin: KafkaLog.Beginning, acceptsGap: Bool
        ) throws {
            log = try KafkaLog(world.configuration, place: place, begin: begin, acceptsGap: acceptsGap, log: world.log)
            loop = try ScoringLoop(
                log: log, view: try View(path: view), pipeline: world.pipeline, model: nil, figures: figures,
                eventsMax: eventsMax, commitsBeside: beside)
        }

        /// Steps until the condition holds.
        func run(until done: () throws -> Bool, seconds: Double = 60) throws {
            let deadline = Date(timeIntervalSinceNow: seconds)
            while try !done() {
                try #require(Date() < deadline, "not done in \(seconds) s")
                outcomes.append(try loop.step(waitMicroseconds: 5000))
            }
        }

        func append(_ events: [String], world: KafkaWorld) throws { try world.send(events, by: log.append) }
    }

    /// Spreads events over the partitions and waits until the brokers have them.
    func send(
        _ events: [String],
        by append: (
            _ request: borrowing AppendRequest,
            _ acknowledged: @escaping @Sendable (Result<[Int: UInt64], any Error>) -> Void
        ) throws -> Void
    ) throws {
        var request = AppendRequest()
        for (index, event) in events.enumerated() {
            Array(event.utf8).withUnsafeBytes { request.add($0, partition: index % partitions) }
        }
        let done = DispatchSemaphore(value: 0)
        let result = Box()
        try append(request) {
            result.value = $0
            done.signal()
        }
        try #require(done.wait(timeout: .now() + 30) == .success)
        #expect(try result.value?.get().count == min(partitions, events.count))
    }

    /// `@unchecked Sendable`: written before the semaphore's signal, read after its wait.
    final class Box: @unchecked Sendable {
        var value: Result<[Int: UInt64], any Error>?
    }
}

@Suite(.serialized, .enabled(if: broker != nil, "skipped: Kafka (set TIDELINE_TEST_KAFKA=host:port to run it)"))
struct KafkaLogTests {
    @Test func everyEventIsScoredOnceAndBadOnesAreDeadLetters() throws {
        let world = try KafkaWorld()
        let core = try world.core(slot: 0)
        let good = (0..<300).map { world.event($0, terminal: $0 % 4) }
        try core.append(good + ["", "{\"id\":", "[1,2,3]"] + good.prefix(30), world: world)
        try core.run(until: {
            let counts = core.figures.current
            return counts.scored + counts.duplicates + counts.deadLetters == 333
        })
        #expect(core.figures.current.scored == 300 && core.figures.current.deadLetters == 3)
        let rows = try world.committed()
        #expect(rows.count == 300 && rows.values.allSatisfy { $0.count == 1 })
        // Other people's consumers find one JSON record an event, keyed by its entity.
        let client = try KafkaClient(.consumer, world.configuration.reading("test", fetchWait: 10))
        var scores = 0
        for partition in 0..<3 {
            let (low, high) = try client.watermarks(world.configuration.scores, partition)
            try client.records(world.configuration.scores, partition, from: low, to: high) { record in
                let object = try JSONSerialization.jsonObject(with: Data(record.value)) as? [String: Any]
                #expect(object?["entity"] as? String == String(decoding: record.key, as: UTF8.self))
                #expect((object?["partition"] as? NSNumber)?.intValue == partition && object?["seq"] is NSNumber)
                scores += 1
                return true
            }
        }
        #expect(scores == 300)
        var letters: [DeadLetter] = []
        for partition in 0..<3 {
            try core.log.reader.deadLetters(of: partition, after: 0) { _, found in
                letters += found
                return true
            }
        }
        #expect(Set(letters.map { String(decoding: $0.bytes, as: UTF8.self) }) == ["", "{\"id\":", "[1,2,3]"])
    }

    /// Transactions of other producers leave offsets without a record, and aborted records are not events.
    @Test func gapsInTheInputAreNoEvents() throws {
        let world = try KafkaWorld()
        let core = try world.core(slot: 0)
        let producer = try TransactionalProducer(
            world.configuration.transactional(id: "upstream-\(world.pipeline.name)"), hooks: ClientHooks())
        try producer.initialize(milliseconds: 30_000)
        for round in 0..<12 {
            let bytes = (0..<5).map { Array(world.event(round * 5 + $0, terminal: 1).utf8) }
            try producer.begin()
            for event in bytes {
                try event.withUnsafeBytes {
                    try producer.produce(
                        world.configuration.input, 1, key: UnsafeRawBufferPointer(start: nil, count: 0), value: $0)
                }
                // The library does not copy: a transaction's messages stay where they are.
                try #require(event.count > 0)
            }
            // An abort of what no broker has seen yet is refused by some.
            try producer.flush(milliseconds: 10_000)
            if round % 3 == 2 {
                try producer.abort(milliseconds: 10_000)
            } else {
                try producer.commit(milliseconds: 10_000)
            }
            withExtendedLifetime(bytes) {}
        }
        try core.run(until: { core.figures.current.scored == 40 })
        try core.append([world.event(1000, terminal: 1), world.event(1001, terminal: 1)], world: world)
        try core.run(until: { core.figures.current.scored == 42 })
        let rows = try world.committed()
        #expect(rows.count == 42 && rows.values.allSatisfy { $0.count == 1 })
    }

    /// A record that does not fit the rest of a batch begins the next one.
    @Test func aLargeEventWaitsForTheNextBatch() throws {
        let world = try KafkaWorld()
        let core = try world.core(slot: 0, eventsMax: 2000)
        let padded = { (id: Int, bytes: Int) in
            world.event(id, terminal: 1).dropLast() + ",\"note\":\"" + String(repeating: "x", count: bytes) + "\"}"
        }
        // All in one partition, 900 KB before the large one: a batch takes 1 MiB.
        var events: [String] = []
        for id in 0..<24 {
            events += [padded(id, id == 20 ? 200_000 : 45_000)]
            for other in 1..<world.partitions { events.append(world.event(1000 * other + id, terminal: 1)) }
        }
        try core.append(events, world: world)
        try core.run(until: { core.figures.current.scored + core.figures.current.deadLetters == 72 })
        #expect(core.figures.current.deadLetters == 0)
        #expect(try world.committed().count == 72)
    }

    /// The longest ids that the decoder takes, in a full batch: its scores are more than a topic takes in one request.
    @Test func scoresOfLongIdsAreCommitted() throws {
        let world = try KafkaWorld()
        let core = try world.core(slot: 0, eventsMax: 2000)
        let long = { (name: String, bytes: Int) in
            name + String(repeating: "\\\"", count: bytes - name.utf8.count)
        }
        let count = 2000 * world.partitions
        try core.append(
            (0..<count).map { id in
                "{\"id\":\"\(long("e\(id)-", Pipeline.idBytesMax))\",\"t\":\(1_700_000_000_000_000 + id),"
                    + "\"customer\":\"\(long("c\(id % 7)-", Pipeline.entityBytesMax))\",\"terminal\":\"m\",\"amount\":1}"
            }, world: world)
        try core.run(until: { core.figures.current.scored + core.figures.current.deadLetters == count }, seconds: 30)
        #expect(core.figures.current.scored == count)
        #expect(core.outcomes.allSatisfy { if case .aborted = $0 { false } else { true } })
    }

    /// A pipeline without a changelog begins where it is told to; one with a changelog where that ends.
    @Test func aNewPipelineBeginsWhereItIsTold() throws {
        let world = try KafkaWorld()
        let before = try KafkaIngest(world.configuration, log: world.log)
        try world.send((0..<90).map { world.event($0, terminal: 1) }, by: before.append)
        do {
            let core = try world.core(slot: 0, begin: .latest)
            // It has its partitions, and with them its place, before anything new comes.
            try core.run(until: {
                core.outcomes.count { if case .assigned = $0 { true } else { false } } == world.partitions
            })
            try core.append((90..<120).map { world.event($0, terminal: 1) }, world: world)
            try core.run(until: { core.figures.current.scored == 30 })
        }
        #expect(Set(try world.committed().keys) == Set((90..<120).map { "e\($0)" }))
        let heir = try world.core(slot: 0, begin: .latest)
        try heir.append((120..<150).map { world.event($0, terminal: 1) }, world: world)
        try heir.run(until: { heir.figures.current.scored == 30 })
        #expect(Set(try world.committed().keys) == Set((90..<150).map { "e\($0)" }))
    }

    /// A batch that gave events back: reading goes on behind it before it is committed. Who dies there, before the first
    /// commit of all, must not be found to have begun behind it.
    @Test func goingOnBehindWhatIsNotCommittedSettlesNothing() throws {
        let world = try KafkaWorld()
        do {
            let core = try world.core(slot: 0)
            try core.run(until: {
                core.outcomes.count { if case .assigned = $0 { true } else { false } } == world.partitions
            })
            try core.append((0..<60).map { world.event($0, terminal: 1) }, world: world)
            let deadline = Date(timeIntervalSinceNow: 20)
            let batch = EventBatch(eventsMax: 50)
            var taken = Set<Int>()
            while taken.count < world.partitions {
                try #require(Date() < deadline, "events of \(taken) alone")
                let step = try core.log.next(into: batch, waitMicroseconds: 5000)
                guard case .events(let partition) = step else { continue }
                try core.log.seek(partition: partition, to: batch.endOffset)
                taken.insert(partition)
            }
            core.log.close()
        }
        let heir = try world.core(slot: 0)
        try heir.run(until: { heir.figures.current.scored == 60 }, seconds: 20)
        #expect(try world.committed().count == 60)
    }

    /// A worker that was replaced and goes on all the same is fenced at its next commit; what it staged is dropped.
    @Test func aZombieCommitsNothing() throws {
        let world = try KafkaWorld()
        let zombie = try world.core(slot: 0)
        try zombie.append((0..<60).map { world.event($0, terminal: 1) }, world: world)
        try zombie.run(until: { zombie.figures.current.scored == 60 })
        // The same slot: the group hands the partitions over at once.
        let heir = try world.core(slot: 0)
        try heir.append((60..<120).map { world.event($0, terminal: 1) }, world: world)
        try heir.run(until: { heir.figures.current.scored == 60 })
        // The zombie has fetched those events too; its commits are refused, or it is told that its slot is gone.
        var refused = false
        for _ in 0..<200 where !refused {
            do { refused = try zombie.loop.step(waitMicroseconds: 5000) != .idle } catch { refused = true }
        }
        #expect(zombie.figures.current.scored == 60)
        let rows = try world.committed()
        #expect(rows.count == 120 && rows.values.allSatisfy { $0.count == 1 })
    }

    /// Without a limit each worker takes a slot of its own.
    @Test func workersWithoutALimitShareThePartitions() throws {
        let world = try KafkaWorld()
        let (one, two) = (try world.core(place: .free(of: nil)), try world.core(place: .free(of: nil)))
        try one.append((0..<90).map { world.event($0, terminal: 1) }, world: world)
        try one.run(until: {
            _ = try two.loop.step(waitMicroseconds: 5000)
            return one.figures.current.scored + two.figures.current.scored == 90 && one.log.slot != nil
                && two.log.slot != nil
        })
        #expect(Set([one.log.slot, two.log.slot]) == [0, 1])
        let rows = try world.committed()
        #expect(rows.count == 90 && rows.values.allSatisfy { $0.count == 1 })
    }

    /// A standby follows the log, takes the slot of a worker that falls silent, and the worker, which comes back, finds its slot
    /// taken: it commits nothing, and stands by itself.
    @Test func aStandbyTakesTheSlotOfAWorkerThatFallsSilent() throws {
        let world = try KafkaWorld()
        let holder = try world.core(place: .free(of: 1))
        try holder.append((0..<60).map { world.event($0, terminal: $0 % 4) }, world: world)
        try holder.run(until: { holder.figures.current.scored == 60 })
        #expect(holder.log.slot == 0)
        let standby = try world.core(place: .free(of: 1))
        for _ in 0..<200 {
            _ = try holder.loop.step(waitMicroseconds: 5000)
            _ = try standby.loop.step(waitMicroseconds: 5000)
        }
        #expect(standby.log.slot == nil && standby.figures.current.batches == 0)
        holder.log.fallSilent(true)
        try standby.append((60..<120).map { world.event($0, terminal: $0 % 4) }, world: world)
        try standby.run(until: { standby.figures.current.scored == 60 })
        #expect(standby.log.slot == 0)
        holder.log.fallSilent(false)
        try standby.append((120..<180).map { world.event($0, terminal: $0 % 4) }, world: world)
        try holder.run(until: {
            _ = try standby.loop.step(waitMicroseconds: 5000)
            return standby.figures.current.scored == 120 && holder.log.slot == nil
        })
        #expect(holder.figures.current.scored == 60)
        let rows = try world.committed()
        #expect(rows.count == 180 && rows.values.allSatisfy { $0.count == 1 })
        // A planned stop: the one that stands by now has the slot back, without a silence.
        try standby.loop.close()
        standby.log.close()
        try holder.append((180..<240).map { world.event($0, terminal: $0 % 4) }, world: world)
        try holder.run(until: { holder.figures.current.scored == 120 }, seconds: 20)
        #expect(try world.committed().count == 240)
    }

    /// Workers come and go while events come in: each event is scored once, and a lost view is made again from the log.
    @Test func coresJoinAndLeave() throws {
        let world = try KafkaWorld()
        var cores = [try world.core(slot: 0)]
        var sent = 0
        for round in 0..<6 {
            try cores[0].append((sent..<sent + 90).map { world.event($0, terminal: $0 % 4) }, world: world)
            sent += 90
            if cores.count == 1 { cores.append(try world.core(slot: round + 1)) } else { cores.removeLast() }
            for _ in 0..<60 { for core in cores { _ = try core.loop.step(waitMicroseconds: 2000) } }
        }
        if cores.count == 2 { cores.removeLast() }
        // The last one waits for the session of those that left to end, and takes what was theirs.
        let deadline = Date(timeIntervalSinceNow: 60)
        while try world.committed().count < sent {
            try #require(Date() < deadline)
            for _ in 0..<100 { _ = try cores[0].loop.step(waitMicroseconds: 2000) }
        }
        let rows = try world.committed()
        #expect(rows.count == sent && rows.values.allSatisfy { $0.count == 1 })
    }

    /// The relay's reader finds any batch by its seq, and reads on from there.
    @Test func theChangelogIsFoundBySeq() throws {
        let world = try KafkaWorld()
        let core = try world.core(slot: 0, beside: false)
        for start in stride(from: 0, to: 1200, by: 30) {
            try core.append((start..<start + 30).map { world.event($0, terminal: 2) }, world: world)
            try core.run(until: { core.figures.current.scored == UInt64(start + 30) })
        }
        let reader = try KafkaLogReader(world.configuration, founds: false, log: world.log)
        let end = try reader.changelogEnd(of: 0)
        #expect(end >= 30)
        var lines: [UInt64] = []
        try reader.scores(of: 0, after: 0) { seq, _ in
            lines.append(seq)
            return true
        }
        #expect(lines.count == 400 && Set(lines) == Set(1...end))
        for after in [end / 2, 0, end - 1, end, end / 3, end / 3 + 1] {
            var found: [UInt64] = []
            try reader.changelog(of: 0, after: after) { seq, _ in
                found.append(seq)
                return found.count < 3
            }
            #expect(found == Array((after + 1...after + 3).prefix { $0 <= end }))
            // A transaction has the scores of ten events of this partition, a record each: none is left out.
            var scores: [UInt64] = []
            try reader.scores(of: 0, after: after) { seq, _ in
                scores.append(seq)
                return true
            }
            #expect(scores.first ?? end + 1 == after + 1 && scores == scores.sorted())
            #expect(scores.count == lines.filter { $0 > after }.count)
        }
        // A look at the end does not cut off what is followed: a client reads a partition once at a time.
        var next: UInt64 = 0
        try reader.changelog(of: 0, after: 0) { seq, _ in
            next = seq
            return true
        }
        for start in stride(from: 1200, to: 1290, by: 30) {
            try core.append((start..<start + 30).map { world.event($0, terminal: 2) }, world: world)
            try core.run(until: { core.figures.current.scored == UInt64(start + 30) })
            let newEnd = try reader.changelogEnd(of: 0)
            #expect(newEnd > next)
            try reader.changelog(of: 0, after: next) { seq, _ in
                #expect(seq == next + 1)
                next = seq
                return true
            }
            #expect(next == newEnd)
        }
    }

    @Test func whatIsMissingIsSaidWithItsRemedy() throws {
        let world = try KafkaWorld()
        var other = world.configuration
        other.input = "\(world.configuration.input)-larger"
        _ = try KafkaTopics(
            KafkaConfiguration(bootstrapServers: broker ?? "", pipeline: "x\(world.pipeline.name)", input: other.input),
            log: world.log
        ).create(partitions: 5)
        #expect(throws: KafkaLogError.partitionsDiffer(topic: other.changes, have: 3, want: 5)) {
            _ = try KafkaLogReader(other, founds: true, log: world.log)
        }
        other.input = "\(world.configuration.input)-none"
        #expect(throws: KafkaLogError.missingTopic(other.input)) {
            _ = try KafkaLogReader(other, founds: true, log: world.log)
        }
        // A closed port, and a broker that speaks no TLS.
        other.input = "any"
        other.properties = ["bootstrap.servers": "127.0.0.1:1"]
        #expect {
            _ = try KafkaLogReader(other, founds: true, log: world.log)
        } throws: {
            "\($0)".contains("Connection refused")
        }
        other.properties = ["security.protocol": "SSL"]
        #expect {
            _ = try KafkaLogReader(other, founds: true, log: world.log)
        } throws: {
            "\($0)".contains("ssl://")
        }
        other.properties = ["sasl.password": "hush", "security.protocol": "nonsense-hush"]
        #expect {
            _ = try KafkaLogReader(other, founds: true, log: world.log)
        } throws: {
            "\($0)".contains("security.protocol") && !"\($0)".contains("hush")
        }
    }
}
