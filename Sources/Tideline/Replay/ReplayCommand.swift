import Features
import Foundation
import Glibc
import Service

/// `tideline replay`: a file of past events, sent as they once came, or faster.
enum ReplayCommand {
    static let command = Command(
        name: "replay", summary: "Send a file of past events to a core: CSV, NDJSON, .npy or .fvecs, plain or gzip.",
        discussion: """
            Rows go out in the file's order, at the pace of their own times. What a core that was away did not take is sent
            again with the same ids, so that a replay that is repeated scores nothing twice. Vectors have no times: they go
            out as events of now, as fast as it goes. docs/replay.md says more.
            """,
        arguments: ["FILE"],
        options: [
            CommandOption("--to", "URL", default: "http://127.0.0.1:8400", help: "The core."),
            CommandOption(
                "--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"),
                help: "Says where id and time are."),
            CommandOption("--speed", "N", default: "1", help: "Times the events' own pace, or max."),
            CommandOption("--limit", "N", help: "End after so many rows."),
            CommandOption("--label", "FIELD", help: "Afterwards compare the scores with this kept field: AUC."),
            CommandOption(
                "--label-positive", "RULE", default: ">0", help: "Which of its values are positive: >0, =fraud."),
            CommandOption("--connections", "N", default: "1", help: "More than one does not keep the order exactly."),
        ] + sourceOptions,
        examples: [
            "tideline replay transactions.csv.gz --speed max",
            "tideline replay creditcard.csv --pipeline pipelines/ulb.yaml --id-from-row --set card=all "
                + "--time-base 2013-09-01T00:00:00Z --speed 60",
            "tideline replay embeddings.npy --pipeline pipelines/vectors.yaml",
        ],
        run: { try run($0) })

    /// How rows become events: the same for a replay and for a training table.
    static let sourceOptions = [
        CommandOption("--format", "NAME", help: "csv, ndjson, npy or fvecs; else told by first bytes and name."),
        CommandOption("--separator", "CHAR", default: ",", help: "Between a CSV file's cells; tab is a word."),
        CommandOption(
            "--time-column", "NAME", help: "The CSV column that holds the time, where it is named otherwise."),
        CommandOption(
            "--time-base", "TIME",
            help: "RFC 3339 or now: the CSV file's times are numbers counted from then, in the pipeline's unit."),
        CommandOption("--id-from-row", help: "The row's number is the event's id."),
        CommandOption("--id-prefix", "TEXT", default: "row-", help: "Before it, to tell files apart."),
        CommandOption("--set", "FIELD=VALUE", help: "A field that each row gets; may be repeated."),
    ]

    private static func run(_ arguments: ParsedArguments) throws -> Int32 {
        RoleShell.prepare()
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        let bytes = try InputBytes(path: arguments.positional[0])
        let source = try ReplaySource(bytes, options: options(arguments, pipeline))
        let poster = EventPoster(
            url: arguments.string("--to") ?? "", connections: try arguments.int("--connections", in: 1...64) ?? 1)
        let check = try arguments.string("--label").map { label in
            try ScoreCheck(
                url: arguments.string("--to") ?? "", pipeline: pipeline, label: label,
                rule: LabelRule(arguments.string("--label-positive") ?? ">0"))
        }
        var replay = Replay(
            source: source, poster: poster, decoder: EventDecoder(pipeline), check: check, speed: try speed(arguments),
            limit: try arguments.int("--limit", in: 1...Int.max) ?? .max)
        return try replay.run()
    }

    private static func speed(_ arguments: ParsedArguments) throws -> Double? {
        if arguments.string("--speed") == "max" { return nil }
        guard let speed = try arguments.double("--speed"), speed > 0 else {
            throw UsageError("--speed is a number above 0, or max")
        }
        return speed
    }

    static func options(_ arguments: ParsedArguments, _ pipeline: Pipeline) throws -> ReplaySource.Options {
        var options = ReplaySource.Options()
        options.timeField = pipeline.columns[Pipeline.timeColumn].path
        if case .time(let unit) = pipeline.columns[Pipeline.timeColumn].type { options.timeUnit = unit.microseconds }
        options.idPath = pipeline.columns[Pipeline.idColumn].path
        options.entityPath = pipeline.columns[pipeline.entities[0].column].path
        if let column = pipeline.embedding.column {
            options.embedding = (pipeline.columns[column].path, pipeline.embedding.dimension)
        }
        options.timeColumn = arguments.string("--time-column")
        if arguments.flag("--id-from-row") { options.idField = pipeline.columns[Pipeline.idColumn].path }
        options.idPrefix = arguments.string("--id-prefix") ?? "row-"
        for pair in arguments.strings("--set") {
            let sides = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            guard sides.count == 2, !sides[0].isEmpty else {
                throw UsageError("--set needs FIELD=VALUE, such as --set card=all; `\(pair)` is none")
            }
            options.constants.append((sides[0], sides[1]))
        }
        let added = [options.idField, options.timeColumn.map { _ in options.timeField }].compactMap { $0 }
        for field in options.constants.map(\.field) + added where field.contains(".") {
            throw UsageError("`\(field)` lies within another field, and only fields of the outermost object can be set")
        }
        if let base = arguments.string("--time-base") {
            guard let time = base == "now" ? SystemClock().now : microseconds(base) else {
                throw UsageError("--time-base is now or a time such as 2013-09-01T00:00:00Z, not `\(base)`")
            }
            options.timeBase = time
        }
        if let name = arguments.string("--format") {
            guard let format = ReplaySource.Format(rawValue: name) else {
                throw UsageError("--format is csv, ndjson, npy or fvecs, not `\(name)`")
            }
            options.format = format
        }
        let separator = arguments.string("--separator") ?? ","
        guard separator == "tab" || separator.utf8.count == 1, separator != "\"", separator != "\n" else {
            throw UsageError("--separator is one character, or the word tab")
        }
        options.separator = separator == "tab" ? 9 : separator.utf8.first ?? 44
        return options
    }

    private static func microseconds(_ text: String) -> Int64? {
        (try? Date(text, strategy: .iso8601)).map { Int64(($0.timeIntervalSince1970 * 1_000_000).rounded()) }
    }
}

extension Pipeline.TimeUnit {
    /// Of a number in this unit; RFC 3339 has none, and counts as seconds.
    var microseconds: Double {
        switch self {
        case .rfc3339, .s: 1_000_000
        case .ms: 1000
        case .us: 1
        case .ns: 0.001
        }
    }
}
