import Changes
import Core
import Features
import Foundation
import Service

/// `tideline dead-letters`: events that could not be scored, what was wrong with them, and the way back.
enum DeadLettersCommand {
    private static let place = [
        CommandOption("--dir", "DIR", default: ".tideline/world", help: "Folder of the embedded log."),
        LogPlace.kafkaOption,
        CommandOption("--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"), help: "The pipeline file."),
    ]
    private static let choice = [
        CommandOption("--partition", "N", help: "One partition alone."),
        CommandOption("--reason", "TEXT", help: "Only those whose reason holds this."),
    ]

    static let list = Command(
        name: "dead-letters list", summary: "List the events that could not be scored, oldest first.",
        discussion:
            "Position, when the log took it, the reason, and the beginning of its bytes. Works beside a running core.",
        options: place + choice + [
            CommandOption("--limit", "N", default: "100", help: "At most so many."),
            CommandOption("--json", help: "Print a JSON object a line, with all bytes in Base64."),
        ],
        examples: ["tideline dead-letters list", "tideline dead-letters list --reason time --json"],
        run: { try list($0) })

    static let show = Command(
        name: "dead-letters show", summary: "Write one event's original bytes to standard output.",
        arguments: ["PARTITION", "OFFSET"], options: place,
        examples: ["tideline dead-letters show 2 1734 | python3 -m json.tool"],
        run: { try show($0) })

    static let replay = Command(
        name: "dead-letters replay", summary: "Send them to a core again, after what was wrong has been mended.",
        discussion: """
            Each event goes with its own id, so one that is sent twice is scored once, as long as its id is known
            (limits.duplicate_window); an interrupted replay can be run again. What is still wrong is refused with its
            reason and stays where it is. Line breaks between an event's tokens become spaces. Exit 1 where any was refused.
            """,
        options: place + choice + [
            CommandOption("--to", "URL", default: "http://127.0.0.1:8400", help: "The core."),
            CommandOption("--rate", "N", default: "100", help: "Events a second at most."),
            CommandOption("--dry-run", help: "Say what the pipeline file would take now, and send nothing."),
        ],
        examples: [
            "tideline dead-letters replay --dry-run",
            "tideline dead-letters replay --reason 'unknown tenant' --rate 50",
        ],
        run: { try replay($0) })

    // MARK: reading

    /// A dead letter and its place.
    private struct Entry {
        var partition: Int
        var letter: DeadLetter
    }

    /// Visits those that were chosen, partition by partition, while `visit` says so.
    private static func forEach(
        _ arguments: ParsedArguments, _ pipeline: Pipeline, role: String, _ visit: (Entry) throws -> Bool
    ) throws {
        let place = try LogPlace.Reading(arguments, pipeline, role: role)
        defer { place.end() }
        try place.catchUp()
        let partitions = place.reader.partitions
        let only = try arguments.int("--partition", in: 0...max(0, partitions - 1))
        let reason = arguments.string("--reason")
        var goesOn = true
        for partition in only.map({ $0...$0 }) ?? 0...(partitions - 1) where goesOn {
            try place.reader.deadLetters(of: partition, after: 0) { _, letters in
                for letter in letters where goesOn && reason.map({ letter.reason.contains($0) }) ?? true {
                    goesOn = try visit(Entry(partition: partition, letter: letter))
                }
                return goesOn
            }
        }
    }

    private static func list(_ arguments: ParsedArguments) throws -> Int32 {
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        let limit = try arguments.int("--limit", in: 1...Int.max) ?? 100
        var count = 0
        try forEach(arguments, pipeline, role: "dead-letters") { entry in
            count += 1
            print(arguments.flag("--json") ? try json(entry) : line(entry))
            return count < limit
        }
        if count == 0, !arguments.flag("--json") { print("no dead letters") }
        return 0
    }

    private static func line(_ entry: Entry) -> String {
        let letter = entry.letter
        let text = String(decoding: letter.bytes.prefix(80), as: UTF8.self).map { $0.isNewline || $0 < " " ? " " : $0 }
        return
            "partition \(entry.partition) offset \(letter.offset)  \(Timestamp.text(letter.appendTime))  \(letter.bytes.count) bytes  \(letter.reason)\n    \(String(text))\(letter.bytes.count > 80 ? "…" : "")"
    }

    private static func json(_ entry: Entry) throws -> String {
        let object: [String: Any] = [
            "partition": entry.partition, "offset": entry.letter.offset,
            "time": Timestamp.text(entry.letter.appendTime), "reason": entry.letter.reason,
            "bytes": Data(entry.letter.bytes).base64EncodedString(),
        ]
        let data = try JSONSerialization.data(withJSONObject: object, options: [.sortedKeys, .withoutEscapingSlashes])
        return String(decoding: data, as: UTF8.self)
    }

    private static func show(_ arguments: ParsedArguments) throws -> Int32 {
        guard let partition = Int(arguments.positional[0]), let offset = UInt64(arguments.positional[1]) else {
            throw UsageError("PARTITION and OFFSET are numbers, as `tideline dead-letters list` shows them")
        }
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        var found: DeadLetter?
        try forEach(arguments, pipeline, role: "dead-letters") { entry in
            if entry.partition == partition, entry.letter.offset == offset { found = entry.letter }
            return found == nil
        }
        guard let found else {
            throw UsageError(
                "no dead letter at partition \(partition) offset \(offset): see `tideline dead-letters list`")
        }
        FileHandle.standardOutput.write(Data(found.bytes))
        FileHandle.standardError.write(Data("\n\(found.reason)\n".utf8))
        return 0
    }

    // MARK: sending

    private static func replay(_ arguments: ParsedArguments) throws -> Int32 {
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        let rate = try arguments.double("--rate") ?? 100
        guard rate > 0 else { throw UsageError("--rate is more than 0") }
        if arguments.flag("--dry-run") { return try dryRun(arguments, pipeline) }
        let poster = EventPoster(url: arguments.string("--to") ?? "", connections: 1)
        let began = monotonicMicroseconds()
        var sent = 0
        try forEach(arguments, pipeline, role: "dead-letters") { entry in
            let due = began + Int64(Double(sent) * 1_000_000 / rate)
            while monotonicMicroseconds() < due, !StopRequest.isPending { usleep(5000) }
            sent += 1
            return poster.post(oneLine(entry.letter.bytes) + [10], events: 1) { StopRequest.isPending }
        }
        poster.finish(unless: { StopRequest.isPending })
        let counts = poster.counts
        print("sent \(sent): accepted \(counts.accepted), refused \(counts.refused)")
        for reason in counts.reasons { print("  refused: \(reason)") }
        if let failure = counts.failure { throw WorldError(failure) }
        return counts.refused == 0 && counts.accepted == sent ? 0 : 1
    }

    private static func dryRun(_ arguments: ParsedArguments, _ pipeline: Pipeline) throws -> Int32 {
        let decoder = EventDecoder(pipeline)
        var good = 0
        var reasons: [String: Int] = [:]
        try forEach(arguments, pipeline, role: "dead-letters") { entry in
            let refusal = unsafe oneLine(entry.letter.bytes).withUnsafeBytes {
                unsafe decoder.decode($0, readable: $0.count)
            }
            if let refusal { reasons["\(refusal)", default: 0] += 1 } else { good += 1 }
            return true
        }
        print("\(good) would be taken now, \(reasons.values.reduce(0, +)) refused")
        for (reason, count) in reasons.sorted(by: { ($1.value, $0.key) < ($0.value, $1.key) }).prefix(20) {
            print("  \(count): \(reason)")
        }
        return reasons.isEmpty ? 0 : 1
    }

    /// Within a JSON text line breaks stand between tokens alone, where a space does as well.
    private static func oneLine(_ bytes: [UInt8]) -> [UInt8] { bytes.map { $0 == 10 || $0 == 13 ? 32 : $0 } }
}
