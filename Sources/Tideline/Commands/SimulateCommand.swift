import Core
import Edge
import Foundation
import Service
import Simulation

/// `tideline simulate`: histories of all roles over simulated brokers, bus and clocks, from a seed.
enum SimulateCommand {
    static let command = Command(
        name: "simulate", summary: "Run all roles through faults, in one thread and from a seed.",
        discussion: """
            Each history sends events through cores that crash, stand still and are replaced, over brokers that lose
            requests and answers, to a sealer and to regions on a bus that loses, doubles and damages messages. A model of dictionaries says
            what must come out. Of history number i the seed is the first one plus i; a failing one is printed with the
            command that runs it again. --plant breaks a rule of the protocol, which the simulation must notice.
            """,
        options: [
            CommandOption("--seed", "N", help: "The first history's seed (default: by the clock)."),
            CommandOption("--events", "M", default: "1000", help: "Events of a history."),
            CommandOption("--histories", "H", help: "How many (default 100, or as many as --seconds allows)."),
            CommandOption("--seconds", "S", help: "Begin no history after so many seconds."),
            CommandOption(
                "--plant", "BUG",
                help: "Break a rule: " + plants.joined(separator: ", ") + "."),
            CommandOption("--trace", help: "Print each step."),
        ],
        examples: ["tideline simulate --seed 7 --trace", "tideline simulate --seconds 60"],
        run: { try run($0) })

    static func run(_ arguments: ParsedArguments) throws -> Int32 {
        let events = try arguments.int("--events", in: 1...10_000_000) ?? 1000
        let seconds = try arguments.double("--seconds")
        let first = try seed(arguments) ?? UInt64(bitPattern: SystemClock().now) % 1_000_000_000
        let count = try arguments.int("--histories", in: 1...Int.max) ?? (seconds == nil ? 100 : .max)
        let plant = try plant(arguments)
        let simulation = try Simulation(
            events: events, variant: plant.flatMap(ProtocolVariant.init(rawValue:)) ?? .sound,
            snapshotVariant: plant.flatMap(SnapshotVariant.init(rawValue:)) ?? .sound)
        SeedAtTrap.install()
        let began = monotonicMicroseconds()
        var elapsed: Double { Double(monotonicMicroseconds() - began) / 1_000_000 }
        var nextLine = 5.0
        var totals = (histories: 0, events: 0, steps: 0, scored: 0, duplicates: 0, deadLetters: 0, simulated: 0.0)
        print("simulate: histories of \(events) events from seed \(first)")
        while totals.histories < count, elapsed < seconds ?? .infinity {
            SeedAtTrap.begin(first &+ UInt64(totals.histories))
            let outcome = try simulation.run(seed: first &+ UInt64(totals.histories), traces: arguments.flag("--trace"))
            totals.histories += 1
            totals.events += outcome.events
            totals.steps += outcome.steps
            totals.scored += outcome.scored
            totals.duplicates += outcome.duplicates
            totals.deadLetters += outcome.deadLetters
            totals.simulated += outcome.simulatedSeconds
            if let violation = outcome.violation {
                print("VIOLATION in history \(totals.histories), seed \(outcome.seed), after \(outcome.steps) steps:")
                print("  \(violation)")
                let planted = plant.map { " --plant \($0)" } ?? ""
                print(
                    "  again: tideline simulate --seed \(outcome.seed) --events \(events) --histories 1\(planted) --trace"
                )
                return 1
            }
            if totals.histories == 1, count == 1 { print("trace \(String(outcome.trace, radix: 16))") }
            if elapsed > nextLine {
                nextLine += 5
                print("  \(totals.histories) histories, \(String(format: "%.0f", elapsed)) s")
            }
        }
        let rate = Double(totals.histories) / elapsed
        print(
            "\(totals.histories) histories hold: \(totals.events) events, \(totals.scored) scored, "
                + "\(totals.duplicates) duplicates, \(totals.deadLetters) dead letters, \(totals.steps) steps, "
                + "\(Int(totals.simulated)) simulated seconds; \(String(format: "%.1f", rate)) histories/s")
        return 0
    }

    private static func seed(_ arguments: ParsedArguments) throws -> UInt64? {
        guard let text = arguments.string("--seed") else { return nil }
        guard let seed = UInt64(text) else { throw UsageError("--seed is a whole number, not `\(text)`") }
        return seed
    }

    private static let plants = ProtocolVariant.planted.map(\.rawValue) + SnapshotVariant.planted.map(\.rawValue)

    private static func plant(_ arguments: ParsedArguments) throws -> String? {
        guard let text = arguments.string("--plant") else { return nil }
        guard plants.contains(text) else {
            let nearest = Nearest.of(text, among: plants)
            throw UsageError("no bug `\(text)`" + (nearest.map { "; did you mean `\($0)`?" } ?? ""))
        }
        return text
    }
}
