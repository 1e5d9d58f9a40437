// PipelineBench: the core's way of an event in one process, from a filled log to the last commit.
//
//   PipelineBench PIPELINE.yaml EVENTS.ndjson FOLDER [--partitions 4] [--batch 2000] [--kafka HOST:PORT]
//
// Prints one JSON object: events a second and CPU of the whole, then the time of each stage on its own. Its method is
// said in loadtest/README.md.

import Changes
import Core
import Features
import Foundation
import Kafka
import Scoring
import Service
import Storage

struct Usage {
    var wall = ContinuousClock.now
    var process = Self.seconds(CLOCK_PROCESS_CPUTIME_ID)
    var thread = Self.seconds(CLOCK_THREAD_CPUTIME_ID)

    private static func seconds(_ clock: clockid_t) -> Double {
        var time = timespec()
        clock_gettime(clock, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    /// Wall, process CPU and this thread's CPU seconds since then.
    var elapsed: (wall: Double, process: Double, thread: Double) {
        let now = Usage()
        return ((now.wall - wall) / .seconds(1), now.process - process, now.thread - thread)
    }
}

/// The events of a file, each with its partition.
struct Input {
    let bytes: [UInt8]
    var events: [(range: Range<Int>, partition: Int)] = []

    init(_ path: String, pipeline: Pipeline, partitions: Int) throws {
        let data = try Data(contentsOf: URL(fileURLWithPath: path))
        bytes = [UInt8](data) + [UInt8](repeating: 0, count: EventDecoder.padding)
        let decoder = EventDecoder(pipeline)
        bytes.withUnsafeBytes { all in
            var start = 0
            while start < data.count {
                var end = start
                while end < data.count, all[end] != 0x0A { end += 1 }
                if end > start {
                    let event = UnsafeRawBufferPointer(rebasing: all[start..<end])
                    let refused = decoder.decode(event, readable: all.count - start) != nil
                    events.append((start..<end, refused ? 0 : partition(of: decoder.primaryEntity, count: partitions)))
                }
                start = end + 1
            }
        }
    }

    func append(to log: any IngestLog) throws {
        // A bounded number of requests under way.
        // It must not die below the value that it was made with.
        let room = DispatchSemaphore(value: 0)
        for _ in 0..<64 { room.signal() }
        defer { for _ in 0..<64 { room.wait() } }
        try bytes.withUnsafeBytes { all in
            var next = 0
            while next < events.count {
                var request = AppendRequest()
                for event in events[next..<min(next + 500, events.count)] {
                    request.add(UnsafeRawBufferPointer(rebasing: all[event.range]), partition: event.partition)
                }
                room.wait()
                while true {
                    do {
                        try log.append(request) {
                            if case .failure(let error) = $0 { preconditionFailure("not taken: \(error)") }
                            room.signal()
                        }
                        break
                    } catch is LogBusy { Thread.sleep(forTimeInterval: 0.05) }
                }
                next += 500
            }
        }
    }

    /// Fills a batch with consecutive events of one partition.
    func forEachBatch(of batch: EventBatch, partitions: Int, _ use: (EventBatch) throws -> Void) rethrows {
        try bytes.withUnsafeBytes { all in
            var offsets = [UInt64](repeating: 0, count: partitions)
            var lists = [[Range<Int>]](repeating: [], count: partitions)
            for event in events {
                lists[event.partition].append(event.range)
                guard lists[event.partition].count == batch.eventsMax else { continue }
                batch.begin(partition: event.partition, firstOffset: offsets[event.partition])
                for range in lists[event.partition] {
                    batch.append(UnsafeRawBufferPointer(rebasing: all[range]), appendTime: 1_900_000_000_000_000)
                }
                offsets[event.partition] += UInt64(batch.eventsMax)
                lists[event.partition].removeAll(keepingCapacity: true)
                try use(batch)
            }
        }
    }
}

/// CPU microseconds an event of the stages between the log's read and its write, each measured on its own thread time.
func stages(_ input: Input, pipeline: Pipeline, model: ScoringModel?, partitions: Int, batch size: Int) -> [String:
    Double]
{
    let batch = EventBatch(eventsMax: size)
    let decoder = EventDecoder(pipeline)
    var letters = ByteWriter()
    var seconds: [String: Double] = [:]
    var events = 0.0
    var seen = 0
    func time(_ name: String, _ body: () -> Void) {
        let start = Usage()
        body()
        if seen > input.events.count / 5 { seconds[name, default: 0] += start.elapsed.thread }
    }
    func assembler(_ model: ScoringModel?) -> Assembler {
        Assembler(
            pipeline, model: model, state: FeatureState(pipeline, partitions: partitions), eventsMax: size)
    }
    let plain = assembler(nil)
    let scoring = assembler(model)
    var writer = ChangeBatchWriter()
    var scores = ByteWriter(capacity: 1 << 20)
    input.forEachBatch(of: batch, partitions: partitions) { batch in
        seen += batch.count
        if seen > input.events.count / 5 { events += Double(batch.count) }
        time("decode") {
            for index in 0..<batch.count {
                let event = batch.event(index)
                _ = decoder.decode(event.bytes, readable: event.readable)
            }
        }
        time("assemble without the model") { _ = plain.assemble(batch, deadLetters: &letters) }
        plain.commit(partition: batch.partition)
        var tally = Assembler.Tally()
        time("assemble") { tally = scoring.assemble(batch, deadLetters: &letters) }
        writer.begin(frontier: EmptyCollection())
        scores.removeAll()
        var flagged: UInt32 = 0
        time("stage") { scoring.stage(batch, seq: 1, into: &writer, scores: &scores, flagged: &flagged) }
        let header = ChangeBatchHeader(
            lineage: Lineage(high: 1, low: 1), partition: 0, seq: 1, firstOffset: batch.firstOffset,
            endOffset: batch.endOffset, commitTime: 0, watermark: 0, schema: pipeline.schema, scored: tally.scored,
            duplicates: tally.duplicates, deadLetters: tally.deadLetters)
        time("encode") { writer.encode(header, digestAfter: 0) { _, _ in } }
        time("apply") { scoring.commit(partition: batch.partition) }
    }
    let each = seconds.mapValues { $0 / events * 1e6 }
    return [
        "decode": each["decode"] ?? 0,
        "duplicates, windows, features": (each["assemble without the model"] ?? 0) - (each["decode"] ?? 0),
        "forest and embedding": (each["assemble"] ?? 0) - (each["assemble without the model"] ?? 0),
        "stage changes and scores": each["stage"] ?? 0,
        "encode: lz4, CRC32C, digest": each["encode"] ?? 0,
        "apply": each["apply"] ?? 0,
    ]
}

func residentBytesMax() -> Int {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    return usage.ru_maxrss << 10
}

func value(_ name: String, _ fallback: Int) -> Int {
    guard let at = CommandLine.arguments.firstIndex(of: name), at + 1 < CommandLine.arguments.count else {
        return fallback
    }
    return Int(CommandLine.arguments[at + 1]) ?? fallback
}

let arguments = CommandLine.arguments
guard arguments.count >= 4 else {
    print("usage: PipelineBench PIPELINE.yaml EVENTS.ndjson FOLDER [--partitions 4] [--batch 2000]")
    exit(64)
}
do {
    let partitions = value("--partitions", 4)
    let size = value("--batch", 2000)
    let pipeline = try Pipeline(path: arguments[1])
    let model = try pipeline.model.map { try ScoringModel(path: $0, pipeline: pipeline) }
    let input = try Input(arguments[2], pipeline: pipeline, partitions: partitions)
    let log: any IngestLog
    if let at = arguments.firstIndex(of: "--kafka"), at + 1 < arguments.count {
        guard case .text(let topic)? = pipeline.kafka["topic"] else { preconditionFailure("kafka.topic is missing") }
        var configuration = KafkaConfiguration(
            bootstrapServers: arguments[at + 1], pipeline: pipeline.name, input: topic)
        configuration.isTransactional = !arguments.contains("--at-least-once")
        let told = Log(role: "bench", minimum: .warning)
        _ = try KafkaTopics(configuration, log: told).create(partitions: partitions)
        log = try KafkaLog(configuration, place: .slot(0), log: told)
    } else {
        log = try EmbeddedLog(path: arguments[3] + "/log", partitions: partitions, lingerMicroseconds: 0)
    }
    let filling = Usage()
    try input.append(to: log)
    let filled = filling.elapsed
    let figures = CoreFigures()
    let loop = try ScoringLoop(
        log: log, view: try View(path: arguments[3] + "/core"), pipeline: pipeline, model: model, figures: figures,
        eventsMax: size, commitsBeside: true)
    // The first fifth warms up: memory is touched for the first time, most entities are met.
    while figures.current.scored < input.events.count / 5 { _ = try loop.step(waitMicroseconds: 0) }
    let first = figures.current.scored
    let start = Usage()
    func done() -> Int { Int(figures.current.scored + figures.current.duplicates + figures.current.deadLetters) }
    while done() < input.events.count { _ = try loop.step(waitMicroseconds: 1000) }
    let took = start.elapsed
    let counts = figures.current
    let events = Double(counts.scored - first)
    let report: [String: Any] = [
        "all": input.events.count, "events": Int(events), "batches": Int(counts.batches), "partitions": partitions,
        "batch": size,
        "features": pipeline.features.count, "stateBytes": counts.stateBytes,
        "residentBytesMax": residentBytesMax(), "entities": counts.entities, "flagged": Int(counts.flagged),
        "eventsPerSecond": events / took.wall,
        "cpuSecondsPer100000": took.process / events * 1e5,
        "scoringThreadCPUSecondsPer100000": took.thread / events * 1e5,
        "appendEventsPerSecond": Double(input.events.count) / filled.wall,
        "appendCPUSecondsPer100000": filled.process / Double(input.events.count) * 1e5,
        "stageMicrosecondsPerEvent": stages(
            input, pipeline: pipeline, model: model, partitions: partitions, batch: size),
    ]
    let json = try JSONSerialization.data(withJSONObject: report, options: [.prettyPrinted, .sortedKeys])
    print(String(decoding: json, as: UTF8.self))
} catch {
    FileHandle.standardError.write(Data("PipelineBench: \(error)\n".utf8))
    exit(2)
}
