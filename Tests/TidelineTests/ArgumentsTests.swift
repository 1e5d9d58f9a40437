import Testing

@testable import Tideline

@Suite struct ArgumentsTests {
    let command = Command(
        name: "replay", summary: "s", arguments: ["FILE", "[MORE]"],
        options: [CommandOption("--rate", "N", default: "5", help: "h"), CommandOption("--json", help: "j")],
        run: { _ in 0 })

    @Test func readsOptionsAndPositions() throws {
        let parsed = try ParsedArguments(["a", "--rate=7", "--json", "--", "--b"], of: command)
        #expect(parsed.positional == ["a", "--b"] && parsed.flag("--json"))
        #expect(try parsed.int("--rate", in: 0...10) == 7)
        #expect(try ParsedArguments(["a"], of: command).int("--rate") == 5)
    }

    @Test(arguments: [
        (["--rate"], "needs a value"), (["a", "--rat", "3"], "did you mean --rate"), ([], "FILE is missing"),
        (["a", "b", "c"], "one too many"), (["a", "--json=1"], "takes no value"),
    ])
    func mistakesAreNamed(_ arguments: [String], _ words: String) {
        do {
            _ = try ParsedArguments(arguments, of: command)
            Issue.record("accepted")
        } catch {
            #expect("\(error)".contains(words), "\(error)")
        }
    }

    @Test func rangesAreKept() throws {
        let parsed = try ParsedArguments(["a", "--rate", "70"], of: command)
        #expect(throws: UsageError.self) { try parsed.int("--rate", in: 0...10) }
    }

    @Test func theNearestWordIsFound() {
        #expect(Nearest.of("veryfi", among: ["up", "verify", "lag"]) == "verify")
        #expect(Nearest.of("zzzzzz", among: ["up", "verify"]) == nil)
        #expect(Nearest.distance("kitten", "sitting") == 3)
    }

    @Test func everyCommandTeachesByAnExample() {
        for command in allCommands {
            #expect(!command.examples.isEmpty && command.help.contains("Usage: tideline \(command.name)"))
        }
    }
}

@Suite struct SimulatorTests {
    @Test func theSameSeedMakesTheSameDays() {
        var a = CardSimulator(customers: 200, terminals: 300, seed: 7)
        var b = CardSimulator(customers: 200, terminals: 300, seed: 7)
        for day in 0..<10 {
            let (x, y) = (a.historicalDay(day), b.historicalDay(day))
            #expect(
                x.count == y.count
                    && zip(x, y).allSatisfy { $0.second == $1.second && $0.transaction.amount == $1.transaction.amount }
            )
        }
    }

    @Test func fraudIsOfThreeKinds() {
        var simulator = CardSimulator(customers: 2000, terminals: 4000, seed: 3)
        var counts = [0, 0, 0, 0]
        for day in 0..<40 {
            for (_, transaction) in simulator.historicalDay(day) {
                counts[transaction.scenario] += 1
                if transaction.amount > 220 { #expect(transaction.scenario > 0) }
                #expect(transaction.amount >= 0)
            }
        }
        #expect(counts.allSatisfy { $0 > 0 })
        let frauds = counts[1...].reduce(0, +)
        #expect(frauds * 100 / counts[0] < 6, "fraud is rare: \(counts)")
    }
}
