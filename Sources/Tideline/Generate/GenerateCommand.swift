import Foundation

/// `tideline generate`: simulated card transactions, as live traffic or as a file.
enum GenerateCommand {
    static let command = Command(
        name: "generate", summary: "Make card transactions: live traffic for a core, or a file to train on.",
        discussion: """
            With --to it sends events as they would happen, fraud included, and sends again what a core that was away did
            not take: with the same ids, so that nothing is scored twice. With --out it writes whole days, in order; with
            --out and --seconds it writes what --to would send in that time.
            """,
        options: [
            CommandOption("--to", "URL", help: "A core, such as http://127.0.0.1:8400."),
            CommandOption("--rate", "N", default: "1000", help: "Events a second, or max."),
            CommandOption("--seconds", "N", help: "End after so long."),
            CommandOption("--count", "N", help: "End after so many events."),
            CommandOption("--connections", "N", default: "4", help: "To post over at once."),
            CommandOption("--out", "FILE", help: "Write NDJSON instead; - is standard output."),
            CommandOption("--days", "N", default: "60", help: "Days of history that --out gets."),
            CommandOption(
                "--start", "DATE", default: "2025-01-01", help: "Where they begin: a date, or a time in RFC 3339."),
            CommandOption("--labels", "FILE", help: "With --out: id and scenario of each fraud, as CSV."),
            CommandOption("--customers", "N", default: "5000", help: "Customers."),
            CommandOption("--terminals", "N", default: "10000", help: "Terminals."),
            CommandOption(
                "--day-seconds", "N", default: "600", help: "Seconds that a day of the fraud scenarios lasts."),
            CommandOption("--seed", "N", default: "1", help: "The same seed makes the same events."),
        ],
        examples: [
            "tideline generate --to http://127.0.0.1:8400 --rate 1000",
            "tideline generate --out days.ndjson --days 120 --labels frauds.csv",
            "tideline generate --out minutes.ndjson --rate 1000 --seconds 600",
        ],
        run: { try run($0) })

    static func run(_ arguments: ParsedArguments) throws -> Int32 {
        RoleShell.prepare()
        let simulator = CardSimulator(
            customers: try arguments.int("--customers", in: 1...10_000_000) ?? 5000,
            terminals: try arguments.int("--terminals", in: 1...10_000_000) ?? 10_000,
            seed: UInt64(try arguments.int("--seed", in: 0...Int.max) ?? 1))
        let rate = arguments.string("--rate") == "max" ? nil : try arguments.double("--rate")
        if let rate, rate <= 0 { throw UsageError("--rate is a number above 0, or max") }
        let daySeconds = max(1, try arguments.double("--day-seconds") ?? 600)
        let seconds = try arguments.double("--seconds")
        if let out = arguments.string("--out") {
            guard arguments.string("--to") == nil else { throw UsageError("--to and --out exclude each other") }
            return try write(simulator, to: out, rate: rate, seconds: seconds, daySeconds: daySeconds, arguments)
        }
        guard let url = arguments.string("--to") else { throw UsageError("generate needs --to URL or --out FILE") }
        let poster = EventPoster(url: url, connections: try arguments.int("--connections", in: 1...64) ?? 4)
        var traffic = LiveTraffic(
            simulator, to: poster,
            .init(
                rate: rate, seconds: seconds, count: try arguments.int("--count", in: 1...Int.max),
                daySeconds: daySeconds))
        return try traffic.run()
    }

    private static func write(
        _ simulator: CardSimulator, to path: String, rate: Double?, seconds: Double?, daySeconds: Double,
        _ arguments: ParsedArguments
    ) throws -> Int32 {
        let start = arguments.string("--start") ?? ""
        guard
            let day = (try? Date(start, strategy: .iso8601.year().month().day())).flatMap({
                start.count == 10 ? $0 : nil
            })
                ?? (try? Date(start, strategy: .iso8601))
        else {
            throw UsageError("--start is a date such as 2025-01-01, or 2025-01-01T12:00:00Z, not `\(start)`")
        }
        var simulator = simulator
        var file = try EventFile(
            out: OutputFile(path: path), labels: arguments.string("--labels").map { try OutputFile(path: $0) },
            start: Int64(day.timeIntervalSince1970) * 1_000_000, prefix: "h-\(arguments.string("--seed") ?? "1")-")
        let progress = ProgressLine()
        if let seconds {
            guard let rate else { throw UsageError("--out with --seconds needs a --rate that is a number") }
            try file.write(seconds: seconds, rate: rate, daySeconds: daySeconds, of: &simulator)
        } else {
            let days = try arguments.int("--days", in: 1...3650) ?? 60
            try file.write(days: days, of: &simulator) { done in progress.show { "\(done) of \(days) days" } }
        }
        progress.end()
        FileHandle.standardError.write(Data("\(file.count) events\n".utf8))
        return 0
    }
}
