import Edge
import Foundation
import Glibc
import HTTP
import Service

/// `tideline generate`: simulated card transactions, as live traffic or as a file.
enum GenerateCommand {
    static let command = Command(
        name: "generate", summary: "Make card transactions: live traffic for a core, or a file to train on.",
        discussion: """
            With --to it sends events as they would happen, fraud included, and sends again what a core that was away did
            not take: with the same ids, so that nothing is scored twice. With --out it writes whole days, in order.
            """,
        options: [
            CommandOption("--to", "URL", help: "A core, such as http://127.0.0.1:8400."),
            CommandOption("--rate", "N", default: "1000", help: "Events a second, or max."),
            CommandOption("--seconds", "N", help: "End after so long."),
            CommandOption("--count", "N", help: "End after so many events."),
            CommandOption("--out", "FILE", help: "Write NDJSON instead; - is standard output."),
            CommandOption("--days", "N", default: "60", help: "Days of history that --out gets."),
            CommandOption("--customers", "N", default: "5000", help: "Customers."),
            CommandOption("--terminals", "N", default: "10000", help: "Terminals."),
            CommandOption(
                "--day-seconds", "N", default: "600", help: "Seconds that a day of the fraud scenarios lasts."),
            CommandOption("--seed", "N", default: "1", help: "The same seed makes the same events."),
        ],
        examples: [
            "tideline generate --to http://127.0.0.1:8400 --rate 1000", "tideline generate --out days.ndjson --days 90",
        ],
        run: { try run($0) })

    static func run(_ arguments: ParsedArguments) throws -> Int32 {
        RoleShell.prepare()
        var simulator = CardSimulator(
            customers: try arguments.int("--customers", in: 1...10_000_000) ?? 5000,
            terminals: try arguments.int("--terminals", in: 1...10_000_000) ?? 10_000,
            seed: UInt64(try arguments.int("--seed", in: 0...Int.max) ?? 1))
        if let out = arguments.string("--out") {
            return try write(&simulator, days: try arguments.int("--days", in: 1...3650) ?? 60, to: out)
        }
        guard let url = arguments.string("--to") else { throw UsageError("generate needs --to URL or --out FILE") }
        let rate = arguments.string("--rate") == "max" ? nil : try arguments.double("--rate")
        var sender = EventSender(url: url)
        return try send(
            &simulator, rate: rate, seconds: try arguments.double("--seconds"),
            count: try arguments.int("--count", in: 1...Int.max),
            daySeconds: max(1, try arguments.double("--day-seconds") ?? 600), by: &sender)
    }

    // MARK: files

    private static func write(_ simulator: inout CardSimulator, days: Int, to path: String) throws -> Int32 {
        let file = unsafe fopen(path == "-" ? "/dev/stdout" : path, "w")
        guard let file = unsafe file else {
            throw WorldError(unsafe "\(path) cannot be written: \(String(cString: strerror(errno)))")
        }
        defer { unsafe fclose(file) }
        // The history ends before now, so that none of it lies in the future.
        let start = Int64(1_735_689_600) * 1_000_000  // 2025-01-01
        var id = 0
        for day in 0..<days {
            var bytes: [UInt8] = []
            for (second, transaction) in simulator.historicalDay(day) {
                let time = start + Int64(day) * 86_400_000_000 + Int64(second * 1_000_000)
                append(transaction, id: "h-\(id)", time: time, to: &bytes)
                id += 1
            }
            unsafe bytes.withUnsafeBytes { _ = unsafe fwrite($0.baseAddress, 1, $0.count, file) }
        }
        FileHandle.standardError.write(Data("\(id) events of \(days) days\n".utf8))
        return 0
    }

    static func append(_ transaction: CardSimulator.Transaction, id: String, time: Int64, to bytes: inout [UInt8]) {
        bytes.append(contentsOf: "{\"transaction_id\":\"".utf8)
        bytes.append(contentsOf: id.utf8)
        bytes.append(contentsOf: "\",\"time\":\"".utf8)
        bytes.append(contentsOf: Timestamp.text(time).utf8)
        bytes.append(contentsOf: "\",\"customer_id\":\"c-".utf8)
        bytes.append(decimal: UInt64(transaction.customer))
        bytes.append(contentsOf: "\",\"terminal_id\":\"m-".utf8)
        bytes.append(decimal: UInt64(transaction.terminal))
        bytes.append(contentsOf: "\",\"amount\":".utf8)
        bytes.append(contentsOf: transaction.amount.description.utf8)
        bytes.append(contentsOf: ",\"scenario\":".utf8)
        bytes.append(decimal: UInt64(transaction.scenario))
        bytes.append(contentsOf: "}\n".utf8)
    }

    // MARK: live traffic

    private static func send(
        _ simulator: inout CardSimulator, rate: Double?, seconds: Double?, count: Int?, daySeconds: Double,
        by sender: inout EventSender
    ) throws -> Int32 {
        let prefix = String(UInt32.random(in: 0...(.max)), radix: 36)
        let began = monotonicMicroseconds()
        var made = 0
        var nextReport = began + 10_000_000
        while !stopAsked() {
            let now = monotonicMicroseconds()
            let elapsed = Double(now - began) / 1_000_000
            if let seconds, elapsed >= seconds { break }
            if let count, made >= count { break }
            simulator.begin(day: Int(elapsed / daySeconds))
            var due = rate.map { Int(elapsed * $0) - made } ?? 1000
            if let count { due = min(due, count - made) }
            if due > 0 {
                var bytes: [UInt8] = []
                let time = SystemClock().now
                for index in 0..<min(due, 1000) {
                    append(simulator.next(), id: "t-\(prefix)-\(made + index)", time: time, to: &bytes)
                }
                made += min(due, 1000)
                sender.send(bytes, events: min(due, 1000), until: stopAsked)
            }
            if now >= nextReport {
                nextReport = now + 10_000_000
                print("sent \(sender.accepted), refused \(sender.refused), sent again \(sender.retries)")
                fflush(nil)
            }
            if rate != nil {
                let rest = 10_000 - (monotonicMicroseconds() - now)
                if rest > 0 { usleep(UInt32(rest)) }
            }
        }
        print("sent \(sender.accepted), refused \(sender.refused), sent again \(sender.retries)")
        return sender.refused == 0 ? 0 : 1
    }

    private static func stopAsked() -> Bool {
        var pending = sigset_t()
        unsafe sigpending(&pending)
        return unsafe sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1
    }
}

/// Posts events to a core until it has taken them: a core that is away gets the same ids again.
struct EventSender {
    private let url: String
    private let client: HTTPClient
    private(set) var accepted = 0
    private(set) var refused = 0
    private(set) var retries = 0
    private(set) var firstReasons: [String] = []

    init(url: String) {
        self.url = url + "/v1/events"
        var configuration = HTTPClient.Configuration()
        configuration.connectTimeout = .seconds(1)
        configuration.timeout = .seconds(10)
        client = HTTPClient(configuration: configuration)
    }

    mutating func send(_ body: [UInt8], events: Int, until stop: () -> Bool) {
        var pause: UInt32 = 50_000
        while true {
            if let answer = try? client.post(url, body: body, contentType: "application/x-ndjson"),
                answer.status == 202 || answer.status == 422
            {
                let object = (try? JSONSerialization.jsonObject(with: Data(answer.body))) as? [String: Any]
                let bad = object?["refused"] as? Int ?? 0
                accepted += events - bad
                refused += bad
                if bad > 0, firstReasons.count < 10, let errors = object?["errors"] as? [[String: Any]] {
                    firstReasons += errors.prefix(10 - firstReasons.count).map { "\($0["reason"] ?? "")" }
                }
                return
            }
            retries += 1
            if stop() { return }
            usleep(pause)
            pause = min(pause * 2, 1_000_000)
        }
    }
}
