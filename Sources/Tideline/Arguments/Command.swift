/// An option of a command: `--name VALUE`, or a flag where there is no value.
struct CommandOption: Sendable {
    let name: String
    let value: String?
    let defaultValue: String?
    let help: String

    init(_ name: String, _ value: String? = nil, default defaultValue: String? = nil, help: String) {
        self.name = name
        self.value = value
        self.defaultValue = defaultValue
        self.help = help
    }
}

/// One command of the tool. A name may have two words, such as `model check`.
struct Command: Sendable {
    let name: String
    let summary: String
    var discussion = ""
    var arguments: [String] = []
    var options: [CommandOption] = []
    var examples: [String] = []
    let run: @Sendable (ParsedArguments) throws -> Int32

    var usage: String {
        (["tideline", name] + arguments + (options.isEmpty ? [] : ["[options]"])).joined(separator: " ")
    }

    var help: String {
        var lines = [summary, "", "Usage: \(usage)"]
        if !discussion.isEmpty { lines += ["", discussion] }
        if !options.isEmpty {
            lines += ["", "Options:"]
            let names = options.map { option in option.value.map { "\(option.name) \($0)" } ?? option.name }
            let width = (names.map(\.count).max() ?? 0) + 2
            for (option, name) in zip(options, names) {
                let padding = String(repeating: " ", count: width - name.count)
                let standard = option.defaultValue.map { " [\($0)]" } ?? ""
                lines.append("  \(name)\(padding)\(option.help)\(standard)")
            }
        }
        if !examples.isEmpty { lines += ["", "Examples:"] + examples.map { "  \($0)" } }
        return lines.joined(separator: "\n")
    }
}

/// A mistake in how the tool was called.
struct UsageError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// What a command was called with, defaults filled in.
struct ParsedArguments: Sendable {
    let positional: [String]
    private let values: [String: String]
    private let flags: Set<String>

    /// Reads `--name value`, `--name=value` and flags; `--` ends the options.
    init(_ arguments: [String], of command: Command) throws {
        var positional: [String] = []
        var values: [String: String] = [:]
        var flags: Set<String> = []
        for option in command.options { values[option.name] = option.defaultValue }
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            guard argument.hasPrefix("--"), argument != "--" else {
                if argument == "--" {
                    positional += rest
                    break
                }
                positional.append(argument)
                continue
            }
            let sides = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            guard let option = command.options.first(where: { $0.name == sides[0] }) else {
                let nearest = Nearest.of(sides[0], among: command.options.map(\.name))
                throw UsageError(
                    "`\(command.name)` has no option \(sides[0])"
                        + (nearest.map { "; did you mean \($0)?" } ?? "; see `tideline help \(command.name)`"))
            }
            if option.value == nil {
                guard sides.count == 1 else { throw UsageError("\(option.name) takes no value") }
                flags.insert(option.name)
            } else if sides.count == 2 {
                values[option.name] = sides[1]
            } else {
                guard let value = rest.popFirst() else {
                    throw UsageError("\(option.name) needs a value: \(option.name) \(option.value ?? "")")
                }
                values[option.name] = value
            }
        }
        let needed = command.arguments.filter { !$0.hasPrefix("[") }.count
        guard positional.count >= needed else {
            throw UsageError("\(command.arguments[positional.count]) is missing: \(command.usage)")
        }
        guard positional.count <= command.arguments.count else {
            throw UsageError("`\(positional[command.arguments.count])` is one too many: \(command.usage)")
        }
        self.positional = positional
        self.values = values
        self.flags = flags
    }

    func string(_ name: String) -> String? { values[name] }

    func flag(_ name: String) -> Bool { flags.contains(name) }

    func int(_ name: String, in range: ClosedRange<Int> = Int.min...Int.max) throws -> Int? {
        guard let text = values[name] else { return nil }
        guard let value = Int(text), range.contains(value) else {
            throw UsageError("\(name) is a whole number from \(range.lowerBound) to \(range.upperBound), not `\(text)`")
        }
        return value
    }

    func double(_ name: String) throws -> Double? {
        guard let text = values[name] else { return nil }
        guard let value = Double(text), value.isFinite else { throw UsageError("\(name) is a number, not `\(text)`") }
        return value
    }
}
