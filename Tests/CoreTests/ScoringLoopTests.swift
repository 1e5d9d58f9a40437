import Changes
import Core
import Features
import Foundation
import Storage
import Testing

let pipelineText = """
    pipeline: sample
    event: { id: id, time: { path: t, unit: us } }
    entities:
      customer: { path: customer }
      terminal: { path: terminal, shared: true }
    fields: { amount: { type: number, required: true } }
    features:
      - value: amount
      - since_last: [customer, terminal]
      - windows: { entity: customer, of: amount, over: [5m, 24h], compute: [count, mean, max, stddev] }
      - windows: { entity: terminal, of: amount, over: [1h, 30d], compute: [count, sum] }
      - windows: { entity: customer, distinct: terminal, over: [24h] }
    limits: { duplicate_ids: 100000 }
    """

/// A log that aborts on command: it injects a fault, everything else is the real log.
///
/// `@unchecked Sendable`: one thread of a test uses it.
final class AbortingLog: EventLog, @unchecked Sendable {
    let inner: EmbeddedLog
    var abortEvery = 0
    private var commits = 0
    private(set) var aborted = 0
    private(set) var seeks = 0

    init(_ inner: EmbeddedLog) { self.inner = inner }

    var lineage: Lineage { inner.lineage }
    var partitions: Int { inner.partitions }
    func next(into batch: EventBatch, waitMicroseconds: Int) throws -> LogStep {
        try inner.next(into: batch, waitMicroseconds: waitMicroseconds)
    }
    func follow(partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool) {}
    func seek(partition: Int, to offset: UInt64) throws {
        seeks += 1
        try inner.seek(partition: partition, to: offset)
    }
    func commit(_ commit: StagedCommit) throws -> CommitOutcome {
        commits += 1
        if abortEvery > 0, commits % abortEvery == 0 {
            aborted += 1
            return .aborted
        }
        return try inner.commit(commit)
    }
    func changelog(of partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool)
        throws
    {
        try inner.changelog(of: partition, after: seq, visit)
    }
    func changelogEnd(of partition: Int) -> UInt64? { inner.changelogEnd(of: partition) }
}

/// A world's core in a temporary folder.
final class TestCore {
    let folder = NSTemporaryDirectory() + "/core-\(UUID().uuidString)"
    let pipeline: Pipeline
    let log: EmbeddedLog
    let view: View
    let faults: AbortingLog
    private(set) var loop: ScoringLoop
    let figures = CoreFigures()

    init(commitsBeside: Bool = false, changeBytesMax: Int = ChangeBatch.bodyBytesAimed) throws {
        pipeline = try Pipeline(text: pipelineText, file: "sample.yaml")
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        log = try EmbeddedLog(path: folder + "/log", partitions: 3, lingerMicroseconds: 0)
        faults = AbortingLog(log)
        view = try View(path: folder + "/core")
        loop = try ScoringLoop(
            log: faults, view: view, pipeline: pipeline, model: nil, figures: figures, eventsMax: 50,
            commitsBeside: commitsBeside, changeBytesMax: changeBytesMax)
    }

    deinit { try? FileManager.default.removeItem(atPath: folder) }

    func event(_ id: Int, customer: Int, amount: String = "5.5") -> String {
        "{\"id\":\"e\(id)\",\"t\":\(1_700_000_000_000_000 + id * 1_000_000),\"customer\":\"c\(customer)\",\"terminal\":\"m\(id % 4)\",\"amount\":\(amount)}"
    }

    func append(_ events: [(text: String, customer: Int)]) throws {
        var request = AppendRequest()
        for event in events {
            Array(event.text.utf8).withUnsafeBytes { request.add($0, partition: event.customer % 3) }
        }
        _ = try log.append(request)
    }

    func drain() throws { while try loop.step(waitMicroseconds: 1000) != .idle {} }

    /// All committed rows by id: features and score as bits, and how often each id is there.
    func committed() throws -> [String: [[UInt32]]] {
        var rows: [String: [[UInt32]]] = [:]
        for partition in 0..<3 {
            try log.changelog(of: partition, after: 0) { _, encoded in
                try ChangeBatch(decoding: encoded).forEachChange { change in
                    guard change.kind == .event, let record = EventRecord(change.value) else { return }
                    let id = String(decoding: change.tenantAndRest.rest, as: UTF8.self)
                    rows[id, default: []].append((0..<record.featureCount).map { record.feature($0).bitPattern })
                }
                return true
            }
        }
        return rows
    }
}

extension TestCore {
    /// Each event's features as a fresh state makes them of the log's input, batch by batch as the frontiers order them.
    func recomputed() throws -> [String: [UInt32]] {
        var batches: [(partition: Int, batch: ChangeBatch)] = []
        for partition in 0..<3 {
            try log.changelog(of: partition, after: 0) { _, encoded in
                batches.append((partition, try ChangeBatch(decoding: encoded)))
                return true
            }
        }
        let assembler = Assembler(
            pipeline, model: nil, state: FeatureState(pipeline, partitions: 3), eventsMax: 50)
        var done = [UInt64](repeating: 0, count: 3)
        var rows: [String: [UInt32]] = [:]
        let input = EventBatch(eventsMax: 50)
        var letters = ByteWriter()
        while let index = batches.firstIndex(where: { item in
            item.batch.header.seq == done[item.partition] + 1
                && item.batch.frontier.allSatisfy { done[Int($0.partition)] == $0.seq }
        }) {
            let (partition, batch) = batches.remove(at: index)
            input.begin(partition: partition, firstOffset: batch.header.firstOffset)
            try log.reader.input(of: partition, from: batch.header.firstOffset) { offset, event, time in
                guard offset < batch.header.endOffset else { return false }
                input.append(event, appendTime: time)
                return true
            }
            _ = assembler.assemble(input, deadLetters: &letters)
            assembler.forEachRow { _, _, id, _, row, _ in
                rows[String(decoding: id, as: UTF8.self)] = row.map(\.bitPattern)
            }
            assembler.commit(partition: partition)
            done[partition] += 1
        }
        #expect(batches.isEmpty, "the frontiers order every batch")
        return rows
    }
}

@Suite struct ScoringLoopTests {
    @Test func everyEventIsScoredOnce() throws {
        let core = try TestCore()
        try core.append((0..<500).map { (core.event($0, customer: $0 % 7), $0 % 7) })
        try core.drain()
        let rows = try core.committed()
        #expect(rows.count == 500 && rows.values.allSatisfy { $0.count == 1 })
        #expect(core.figures.current.scored == 500)
    }

    /// The memory of both stores, in the text that a scraper reads.
    @Test func memoryAsText() throws {
        let core = try TestCore()
        try core.append((0..<20).map { (core.event($0, customer: $0), $0) })
        try core.drain()
        let routes = IngestRoutes(log: core.log, view: core.view, pipeline: core.pipeline, figures: core.figures)
        let lines = routes.metricsText().split(separator: "\n")
        #expect(lines.contains("# HELP tideline_store_memory_bytes Memory of RocksDB, by store and part."))
        #expect(lines.contains("# TYPE tideline_store_memory_bytes gauge"))
        #expect(lines.contains("tideline_core_scored_total 20"))
        for store in ["log", "view"] {
            for part in ["memtables", "memtables_read", "files", "cache", "cache_pinned"] {
                let start = "tideline_store_memory_bytes{store=\"\(store)\",part=\"\(part)\"} "
                let value = try #require(lines.first { $0.hasPrefix(start) }?.dropFirst(start.count))
                #expect(UInt64(value) != nil)
            }
        }
        #expect(core.log.memory?.memtables ?? 0 > 0)
    }

    @Test func duplicatesAreDroppedAndDeadLettersSayWhy() throws {
        let core = try TestCore()
        try core.append([(core.event(1, customer: 1), 1), (core.event(1, customer: 1), 1)])
        try core.append([
            ("{\"id\":", 1), (core.event(2, customer: 1, amount: "\"x\""), 1), (core.event(1, customer: 1), 1),
        ])
        try core.drain()
        #expect(core.figures.current.scored == 1)
        #expect(core.figures.current.duplicates == 2)
        #expect(core.figures.current.deadLetters == 2)
        var letters: [DeadLetter] = []
        try core.log.reader.deadLetters(of: 1, after: 0) { _, found in
            letters += found
            return true
        }
        #expect(letters.map(\.offset) == [2, 3])
        #expect(letters[0].reason.contains("malformed") && letters[0].bytes == Array("{\"id\":".utf8))
        #expect(letters[1].reason == "amount: a number is needed")
    }

    /// Aborted transactions leave no trace: the rows are those of a run without aborts, and what the log holds is what a
    /// fresh state makes of its input, bit for bit.
    @Test(arguments: [false, true])
    func abortsLeaveNoTrace(_ commitsBeside: Bool) throws {
        let plain = try TestCore()
        let disturbed = try TestCore(commitsBeside: commitsBeside)
        disturbed.faults.abortEvery = 3
        for start in stride(from: 0, to: 600, by: 60) {
            let events = (start..<start + 60).map { (plain.event($0, customer: $0 % 7), $0 % 7) }
            try plain.append(events)
            try disturbed.append(events)
            try plain.drain()
            try disturbed.drain()
        }
        #expect(disturbed.faults.aborted > 5)
        let expected = try plain.committed()
        let rows = try disturbed.committed()
        #expect(rows.count == 600 && rows.values.allSatisfy { $0.count == 1 })
        // Primary features do not depend on how partitions interleave; aborts shift that interleaving.
        #expect(rows.keys.allSatisfy { rows[$0]?[0].prefix(2) == expected[$0]?[0].prefix(2) })
        #expect(try disturbed.recomputed() == rows.mapValues { $0[0] })
    }

    /// A core that lost its view, and one that kept it, go on alike: from the log, which remembers the ids too.
    @Test(arguments: [true, false])
    func aRestartGoesOnWhereTheLogEnds(_ keepsView: Bool) throws {
        let core = try TestCore()
        try core.append((0..<300).map { (core.event($0, customer: $0 % 7), $0 % 7) })
        try core.drain()
        if keepsView { try core.loop.close() }
        let copy = core.folder + "/log-copy"
        try core.log.stored.store.checkpoint(to: copy)
        if keepsView {
            try FileManager.default.copyItem(atPath: core.folder + "/core", toPath: core.folder + "/view-copy")
        }
        let log = try EmbeddedLog(path: copy, partitions: nil, lingerMicroseconds: 0)
        let figures = CoreFigures()
        let loop = try ScoringLoop(
            log: log, view: try View(path: core.folder + "/view-copy"), pipeline: core.pipeline, model: nil,
            figures: figures, eventsMax: 50)
        // The same events again, and new ones: to both.
        let more = (250..<400).map { (core.event($0, customer: $0 % 7), $0 % 7) }
        try core.append(more)
        try core.drain()
        var request = AppendRequest()
        for event in more { Array(event.0.utf8).withUnsafeBytes { request.add($0, partition: event.1 % 3) } }
        _ = try log.append(request)
        while try loop.step(waitMicroseconds: 1000) != .idle {}
        #expect(figures.current.scored == 100 && figures.current.duplicates == 50)
        for partition in 0..<3 {
            let own = try #require(core.figures.current.positions[partition])
            let other = try #require(figures.current.positions[partition])
            #expect(own.endOffset == other.endOffset && own.seq == other.seq)
        }
    }

    @Test func anotherLogsViewIsRefused() throws {
        let core = try TestCore()
        try core.append([(core.event(1, customer: 1), 1)])
        try core.drain()
        try core.loop.close()
        let other = try EmbeddedLog(path: core.folder + "/other", partitions: 3)
        let path = core.folder + "/copy"
        try FileManager.default.copyItem(atPath: core.folder + "/core", toPath: path)
        #expect(throws: ForeignView.self) {
            _ = try ScoringLoop(
                log: other, view: try View(path: path), pipeline: core.pipeline, model: nil, figures: CoreFigures())
        }
    }

    @Test func partitionsOfALogAreFixed() throws {
        let core = try TestCore()
        let path = core.folder + "/p"
        do { _ = try EmbeddedLog(path: path, partitions: 2) }
        #expect(throws: EmbeddedLogError.partitionsDiffer(have: 2, want: 4)) {
            _ = try EmbeddedLog(path: path, partitions: 4)
        }
    }
}

@Suite struct SeenIdsTests {
    /// A batch that spans more than the window, or more ids than the bound, pushes out ids of its own; taken back, all is
    /// as before. (Found by the simulation with seed 2: a core that caught up after an outage ended at the first abort.)
    @Test(arguments: [(500, Int64(1000)), (3, 1_000_000)])
    func aBatchThatPushesOutItsOwnIdsIsTakenBack(_ countMax: Int, _ window: Int64) {
        let seen = SeenIds(countMax: countMax, windowMicroseconds: window)
        let hash = { (id: UInt64) in IdentityHash(low: id &* 0x9E37_79B9_7F4A_7C15, high: id) }
        for id in 0..<3 { #expect(seen.insert(hash(UInt64(id)), time: 0)) }
        seen.commit(seen.seal())
        for id in 3..<20 { #expect(seen.insert(hash(UInt64(id)), time: Int64(id) * 900)) }
        _ = seen.seal()
        seen.rollback()
        #expect(seen.count == 3)
        for id in 0..<20 { #expect(seen.insert(hash(UInt64(id)), time: 0) == (id >= 3)) }
    }

    /// Against a dictionary: inserts, rollbacks, expiry by count and by age.
    @Test func equalsADictionary() {
        let seen = SeenIds(countMax: 500, windowMicroseconds: 10_000)
        var order: [(UInt64, Int64)] = []
        var random = SystemRandomNumberGenerator()
        for round in 0..<2000 {
            let now = Int64(round) * 10
            var fresh: [(UInt64, Int64)] = []
            for _ in 0..<Int.random(in: 1...20, using: &random) {
                let id = UInt64.random(in: 0..<3000, using: &random)
                let known = (order + fresh).contains { $0.0 == id }
                let isNew = seen.insert(IdentityHash(low: id &* 0x9E37_79B9_7F4A_7C15, high: id), time: now)
                #expect(isNew == !known)
                if isNew { fresh.append((id, now)) }
            }
            if Int.random(in: 0..<4, using: &random) == 0 {
                if Bool.random(using: &random) { _ = seen.seal() }
                seen.rollback()
            } else {
                seen.commit(seen.seal())
                order += fresh
                while let first = order.first, let last = order.last,
                    order.count > 500 || first.1 < last.1 - 10_000
                { order.removeFirst() }
            }
            #expect(seen.count == order.count)
        }
    }
}
