import Changes
import Core
import Features
import Foundation
import Kafka
import Service

/// `tideline log`: a log's whole history in one file, and from there into Kafka.
enum LogCommand {
    static let export = Command(
        name: "log export", summary: "Write the embedded log into one file: events, batches, scores, dead letters.",
        discussion: """
            The file is the log as it stood at one moment, with its lineage; each part of it has a checksum. It works beside
            a running core, but what comes afterwards is not in it: to move, stop the core first. A file that is cut off never
            has its name.
            """,
        options: [
            CommandOption("--dir", "DIR", default: ".tideline/world", help: "Folder of the embedded log."),
            CommandOption("--to", "FILE", help: "The file to write."),
            CommandOption(
                "--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"), help: "The pipeline file."),
        ],
        examples: ["tideline log export --dir .tideline/world --to history.log"],
        run: { try export($0) })

    static let take = Command(
        name: "log import", summary: "Take an exported log into Kafka, with its lineage, seqs and offsets.",
        discussion: """
            Makes the topics, which must be missing or empty. A core on them goes on where the old one stopped and scores
            nothing again; regions that followed the old log go on without beginning anew. The file is checked from end to end
            first. An import that was cut off is not gone on with: nothing opens such a log, and the message says what to do.
            """,
        options: [
            LogPlace.kafkaOption,
            CommandOption("--from", "FILE", help: "What `tideline log export` wrote."),
            CommandOption(
                "--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"), help: "The pipeline file."),
        ],
        examples: ["tideline log import --kafka 127.0.0.1:9092 --from history.log"],
        run: { try take($0) })

    private static func export(_ arguments: ParsedArguments) throws -> Int32 {
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        guard let path = arguments.string("--to") else { throw UsageError("say with --to FILE where the export goes") }
        let dir = arguments.string("--dir") ?? ".tideline/world"
        let scratch = NSTemporaryDirectory() + "/tideline-export-\(ProcessInfo.processInfo.processIdentifier)"
        defer { try? FileManager.default.removeItem(atPath: scratch) }
        let reader = try EmbeddedLogReader(following: "\(dir)/log", scratch: scratch)
        try reader.store.catchUp()
        let line = ProgressLine()
        defer { line.end() }
        let (header, bytes) = try LogArchiveWriter.export(reader, pipeline: pipeline.name, to: path) {
            events, batches in
            line.show { "\(events) events, \(batches) batches" }
        }
        line.end()
        print("\(path): \(summary(header)), \(bytes) bytes")
        return 0
    }

    private static func take(_ arguments: ParsedArguments) throws -> Int32 {
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        guard let path = arguments.string("--from") else { throw UsageError("say with --from FILE what to take in") }
        guard let configuration = try LogPlace.kafka(arguments, pipeline) else {
            throw UsageError("add --kafka HOST:PORT, or `kafka: { bootstrap.servers: … }` to \(pipeline.file)")
        }
        let header = try LogArchiveReader.check(path: path)
        guard header.pipeline == pipeline.name else {
            throw UsageError(
                "\(path) is a log of the pipeline \(header.pipeline), \(pipeline.file) is \(pipeline.name)")
        }
        let work = try KafkaImport(configuration, log: Log(role: "import", minimum: .error))
        let line = ProgressLine()
        defer { line.end() }
        let total = header.ends.reduce(0) { $0 + $1.input + $1.seq }
        try work.run(try LogArchiveReader(path: path)) { work in
            line.show {
                "\((work.events + work.batches) * 100 / max(1, total)) %: \(work.events) events, \(work.batches) batches"
            }
        }
        line.end()
        print("\(configuration.changes): \(summary(header))")
        print("the old log must not be started again: there would be two of one lineage")
        return 0
    }

    private static func summary(_ header: LogArchive.Header) -> String {
        let events = header.ends.reduce(0) { $0 + $1.input }
        let batches = header.ends.reduce(0) { $0 + $1.seq }
        return "log \(header.lineage), \(header.ends.count) partitions, \(events) events, \(batches) batches"
    }
}
