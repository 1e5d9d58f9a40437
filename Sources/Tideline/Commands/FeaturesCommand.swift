import Core
import Features
import Foundation
import Service

/// `tideline features`: a pipeline's features, and the table that a model is trained on.
enum FeaturesCommand {
    static let check = Command(
        name: "features check", summary: "Check a pipeline file, and list its features.",
        discussion: "A mistake is told with file, line, field and remedy, and exit code 2.",
        arguments: ["[PIPELINE]"], examples: ["tideline features check pipelines/cards.yaml"],
        run: { arguments in
            let pipeline = try pipeline(arguments)
            print("pipeline \(pipeline.name): \(pipeline.features.count) features")
            let state = FeatureState(pipeline, partitions: 4)
            for (entity, bytes) in zip(pipeline.entities, state.recordBytes) {
                let kind = entity.shared ? "shared, with 4 partitions" : "primary"
                print("  \(entity.name) (\(kind)): \(bytes) bytes in memory each")
            }
            for name in pipeline.featureNames { print("  \(name)") }
            return 0
        })

    static let list = Command(
        name: "features list", summary: "Print the names of a pipeline's features, one a line, in the model's order.",
        arguments: ["[PIPELINE]"], examples: ["tideline features list pipelines/cards.yaml"],
        run: { arguments in
            for name in try pipeline(arguments).featureNames { print(name) }
            return 0
        })

    static let export = Command(
        name: "features export", summary: "Make the training table from events, by the code that runs online.",
        discussion: """
            Events are read in order, from NDJSON or CSV, plain or gzip. The table has id, time (microseconds since 1970),
            label and the features, one row an event; a missing value is an empty cell.
            """,
        options: [
            CommandOption(
                "--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"), help: "The pipeline file."),
            CommandOption("--in", "FILE", help: "Events in the order of their times; - is standard input."),
            CommandOption("--out", "FILE", help: "The table, as CSV; - is standard output."),
            CommandOption(
                "--label", "FIELD", default: "scenario", help: "The kept field that holds the truth, or none."),
            CommandOption(
                "--label-positive", "RULE", default: ">0", help: "Which of its values are the label 1: >0, =fraud."),
            CommandOption("--fields", "LIST", help: "Kept fields that become columns `field.NAME`."),
            CommandOption(
                "--sample", "PART", default: "1", help: "Part of the rows to write, from 0 to 1, by their ids."),
        ] + ReplayCommand.sourceOptions,
        examples: [
            "tideline features export --in days.ndjson.gz --out table.csv",
            "tideline features export --in days.ndjson --out table.csv --fields customer --sample 0.5",
        ],
        run: { try export($0) })

    static let rows = Command(
        name: "features rows", summary: "Write what a log has committed: each event with its features and its score.",
        discussion: """
            Reads a world's log, also while it runs, and writes NDJSON for any tool. The first line names the features;
            then comes a line a batch, in the order of commit: partition, seq, firstOffset, endOffset, frontier (the seq
            of each other partition that the batch had read), watermark, commitTime and events. An event has offset,
            appendTime, event (a text: its bytes as they came) and outcome: `scored` with flags, features and score (a
            missing value is null), `duplicate`, or `deadLetter` with its reason. Times are microseconds since 1970.
            """,
        options: [
            CommandOption("--dir", "DIR", default: ".tideline/world", help: "The world's folder."),
            LogPlace.kafkaOption,
            CommandOption(
                "--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"), help: "The pipeline file."),
            CommandOption("--out", "FILE", help: "The rows, as NDJSON; - is standard output."),
        ],
        examples: [
            "tideline features rows --dir /tmp/w --out rows.ndjson",
            "tideline features rows --out - | head -2",
        ],
        run: { try rows($0) })

    private static func pipeline(_ arguments: ParsedArguments) throws -> Pipeline {
        try Pipeline(path: arguments.positional.first ?? Places.file("pipelines/cards.yaml"))
    }

    private static func export(_ arguments: ParsedArguments) throws -> Int32 {
        guard let input = arguments.string("--in"), let output = arguments.string("--out") else {
            throw UsageError("features export needs --in FILE and --out FILE")
        }
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        let bytes = try InputBytes(path: input)
        let label = arguments.string("--label")
        guard let sample = try arguments.double("--sample"), sample > 0, sample <= 1 else {
            throw UsageError("--sample is a number above 0 and at most 1")
        }
        let table = try TableExport(
            pipeline, from: ReplaySource(bytes, options: ReplayCommand.options(arguments, pipeline)),
            to: OutputFile(path: output),
            .init(
                label: label == "none" ? nil : label, rule: LabelRule(arguments.string("--label-positive") ?? ">0"),
                fields: (arguments.string("--fields") ?? "").split(separator: ",").map(String.init), sample: sample))
        let progress = ProgressLine()
        let began = monotonicMicroseconds()
        func rate() -> Int { Int(Double(table.rows) / max(0.001, Double(monotonicMicroseconds() - began) / 1_000_000)) }
        try table.run {
            progress.show { "\(table.rows) rows, \(rate())/s" + (bytes.fraction.map { ", \(Int($0 * 100)) %" } ?? "") }
        }
        progress.end()
        var text = "\(table.rows) rows of \(pipeline.features.count) features, \(rate())/s"
        if table.duplicates > 0 { text += "; \(table.duplicates) duplicates left out" }
        if table.refused > 0 { text += "; \(table.refused) refused, such as \(table.firstReason ?? "")" }
        FileHandle.standardError.write(Data("\(text)\n".utf8))
        return 0
    }

    private static func rows(_ arguments: ParsedArguments) throws -> Int32 {
        guard let output = arguments.string("--out") else { throw UsageError("features rows needs --out FILE") }
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        let place = try LogPlace.Reading(arguments, pipeline, role: "rows")
        defer { place.end() }
        try place.catchUp()
        let export = try RowExport(place.reader, pipeline, to: OutputFile(path: output))
        let progress = ProgressLine()
        try export.run { done, batches in
            progress.show { "\(export.scored) rows, \(done) of \(batches) batches" }
        }
        progress.end()
        let text =
            "\(export.scored) rows of \(pipeline.features.count) features, \(export.duplicates) duplicates, "
            + "\(export.deadLetters) dead letters\n"
        FileHandle.standardError.write(Data(text.utf8))
        return 0
    }
}
