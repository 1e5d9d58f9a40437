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
        (["a", "-x"], "has no option -x"), (["a", "-r", "3"], "did you mean --rate"),
        (["-json", "a"], "did you mean --json"), (["a", "-jsno"], "did you mean --json"),
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

    @Test func anOptionMayBeRepeated() throws {
        let parsed = try ParsedArguments(["a", "--rate", "1", "--rate=2"], of: command)
        #expect(parsed.strings("--rate") == ["1", "2"] && parsed.string("--rate") == "2")
        #expect(try ParsedArguments(["a"], of: command).strings("--rate") == ["5"])
        #expect(throws: UsageError.self) { try ParsedArguments(["a", "--rate", "--json"], of: command) }
        #expect(try ParsedArguments(["a", "--rate", "-3"], of: command).double("--rate") == -3)
    }

    @Test func aNegativeNumberAndALoneDashAreNoOptions() throws {
        #expect(try ParsedArguments(["-", "-2.5"], of: command).positional == ["-", "-2.5"])
        #expect(try ParsedArguments(["--", "-x"], of: command).positional == ["-x"])
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

    @Test func callsThatAreNotUnderstoodEndIn64() {
        for call in [
            ["modle", "check", "x"], ["model", "chekc", "x"], ["model"], ["pu"], ["up", "--rat", "3"], ["up", "-x"],
        ] {
            #expect(tidelineTool.main(call) == 64, "\(call)")
        }
        for call in [["--version"], ["help", "model"], ["model", "-h"], ["help", "replay"], []] {
            #expect(tidelineTool.main(call) == 0, "\(call)")
        }
        #expect(tidelineTool.main(["features", "check", "/nowhere.yaml"]) == 2)
    }

    @Test func everyCommandTeachesByAnExample() {
        for command in allCommands {
            #expect(!command.examples.isEmpty && command.help.contains("Usage: tideline \(command.name)"))
        }
    }
}
