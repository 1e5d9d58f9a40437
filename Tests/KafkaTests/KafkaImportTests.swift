import Changes
import Core
import Features
import Foundation
import Service
import Storage
import Testing

@testable import Kafka

@Suite(.serialized, .enabled(if: broker != nil, "skipped: Kafka (set TIDELINE_TEST_KAFKA=host:port to run it)"))
struct KafkaImportTests {
    /// An embedded log of 600 events, of which some are duplicates and some cannot be read, exported to a file.
    private final class Grown {
        let folder = NSTemporaryDirectory() + "/grown-\(UUID().uuidString)"
        let pipeline: Pipeline
        let configuration: KafkaConfiguration
        let log: EmbeddedLog
        let loop: ScoringLoop
        let quiet = Log(role: "test", minimum: .error)
        var path: String { folder + "/history.log" }

        init() throws {
            let name = "t" + UUID().uuidString.prefix(8).lowercased()
            configuration = KafkaConfiguration(
                bootstrapServers: broker ?? "", pipeline: name, input: "\(name).events")
            pipeline = try Pipeline(text: pipelineText.replacing("NAME", with: name), file: "test.yaml")
            try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
            log = try EmbeddedLog(path: folder + "/log", partitions: 3, lingerMicroseconds: 0)
            loop = try ScoringLoop(
                log: log, view: try View(path: folder + "/view"), pipeline: pipeline, model: nil,
                figures: CoreFigures(), eventsMax: 20)
            try append((0..<600).map(event) + (0..<40).map(event) + ["", "{\"id\":", "[1,2]"])
            _ = try LogArchiveWriter.export(log.stored, pipeline: name, to: path) { _, _ in }
        }

        deinit { try? FileManager.default.removeItem(atPath: folder) }

        func event(_ id: Int) -> String {
            "{\"id\":\"e\(id)\",\"t\":\(1_700_000_000_000_000 + id * 1_000_000),\"customer\":\"c\\\"\(id % 7)\","
                + "\"terminal\":\"m\(id % 5)\",\"amount\":\(Double(id % 90) + 0.5)}"
        }

        func append(_ events: [String]) throws {
            var request = AppendRequest()
            for (index, event) in events.enumerated() {
                Array(event.utf8).withUnsafeBytes { request.add($0, partition: index % 3) }
            }
            _ = try log.append(request)
            while try loop.step(waitMicroseconds: 1000) != .idle {}
        }

        func take() throws {
            try KafkaImport(configuration, log: quiet).run(LogArchiveReader(path: path)) { _ in }
        }
    }

    /// What a reader sees of a log, byte for byte.
    private struct Contents: Equatable {
        var lineage: Lineage
        var events: [[[UInt8]]] = []
        var batches: [[[UInt8]]] = []
        var scores: [[[UInt8]]] = []
        var letters: [[DeadLetter]] = []

        init(_ reader: any LogReader) throws {
            lineage = reader.lineage
            for partition in 0..<reader.partitions {
                var events: [[UInt8]] = []
                try reader.input(of: partition, from: 0) { offset, event, _ in
                    #expect(offset == events.count)
                    events.append(Array(event))
                    return true
                }
                var batches: [[UInt8]] = []
                try reader.changelog(of: partition, after: 0) { seq, encoded in
                    batches.append(Array(encoded))
                    #expect(seq == batches.count)
                    return true
                }
                // Of the embedded log a transaction's lines together, of Kafka one by one.
                var scores: [[UInt8]] = []
                try reader.scores(of: partition, after: 0) { _, lines in
                    scores += lines.split(separator: 10).map { Array($0) }
                    return true
                }
                var letters: [DeadLetter] = []
                try reader.deadLetters(of: partition, after: 0) { _, found in
                    letters += found
                    return true
                }
                self.events.append(events)
                self.batches.append(batches)
                self.scores.append(scores)
                self.letters.append(letters)
            }
        }
    }

    @Test func theSameLogStandsInKafkaAndACoreGoesOn() throws {
        let grown = try Grown()
        try grown.take()
        let reader = try KafkaLogReader(grown.configuration, founds: false, log: grown.quiet)
        let old = try Contents(grown.log.stored)
        let new = try Contents(reader)
        #expect(new == old)
        #expect(old.scores.joined().count == 600 && old.letters.joined().count == 3)
        for (partition, events) in old.events.enumerated() {
            #expect(try reader.inputEnd(of: partition) == UInt64(events.count), "offsets are dense as they were")
            var times: [Int64] = []
            try grown.log.stored.input(of: partition, from: 0) { _, _, time in
                times.append(time / 1000)
                return true
            }
            var taken: [Int64] = []
            try reader.input(of: partition, from: 0) { _, _, time in
                taken.append(time / 1000)
                return true
            }
            #expect(taken == times)
        }
        // Scores are keyed by their entity, as a core writes them.
        let client = try KafkaClient(.consumer, grown.configuration.reading("test", fetchWait: 10))
        try client.records(
            grown.configuration.scores, 0, from: 0, to: client.watermarks(grown.configuration.scores, 0).high
        ) {
            let object = try JSONSerialization.jsonObject(with: Data($0.value)) as? [String: Any]
            #expect(object?["entity"] as? String == String(decoding: $0.key, as: UTF8.self))
            return true
        }
        // A core scores what comes, and nothing again: an id that the old log knows is a duplicate.
        let core = try KafkaLog(grown.configuration, place: .slot(0), log: grown.quiet)
        let figures = CoreFigures()
        let loop = try ScoringLoop(
            log: core, view: try View(path: grown.folder + "/kafka-view"), pipeline: grown.pipeline, model: nil,
            figures: figures, eventsMax: 20)
        var request = AppendRequest()
        for id in [0, 1, 2, 1000, 1001, 1002] {
            Array(grown.event(id).utf8).withUnsafeBytes { request.add($0, partition: id % 3 == 0 ? 0 : id % 3) }
        }
        try core.append(request) { _ in }
        let deadline = Date(timeIntervalSinceNow: 60)
        while figures.current.scored + figures.current.duplicates < 6 {
            try #require(Date() < deadline)
            _ = try loop.step(waitMicroseconds: 5000)
        }
        #expect(figures.current.scored == 3 && figures.current.duplicates == 3)
        let after = try Contents(core.reader)
        for partition in 0..<3 {
            #expect(after.batches[partition].starts(with: old.batches[partition]))
            #expect(after.batches[partition].count > old.batches[partition].count)
        }
    }

    @Test func aLogThatIsNotEmptyIsRefused() throws {
        let grown = try Grown()
        try grown.take()
        #expect(throws: KafkaLogError.notEmpty(grown.configuration.input)) { try grown.take() }
    }

    /// Nobody opens a log of which a part alone was taken in.
    @Test func anImportThatWasCutOffIsNotOpened() throws {
        let grown = try Grown()
        let bytes = try #require(FileManager.default.contents(atPath: grown.path))
        try bytes.prefix(bytes.count * 3 / 4).write(to: URL(filePath: grown.path))
        #expect(throws: LogArchive.Failure.self) { try LogArchiveReader.check(path: grown.path) }
        #expect(throws: LogArchive.Failure.self) { try grown.take() }
        #expect(throws: KafkaLogError.self) {
            try KafkaLogReader(grown.configuration, founds: true, log: grown.quiet)
        }
        #expect(throws: KafkaLogError.notEmpty(grown.configuration.input)) { try grown.take() }
    }
}
