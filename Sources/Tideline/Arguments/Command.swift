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
    private let values: [String: [String]]
    private let flags: Set<String>

    /// Reads `--name value`, `--name=value` and flags; `--` ends the options. There are no options of one letter.
    init(_ arguments: [String], of command: Command) throws {
        var positional: [String] = []
        var values: [String: [String]] = [:]
        var flags: Set<String> = []
        var rest = arguments[...]
        while let argument = rest.popFirst() {
            if argument == "--" {
                positional += rest
                break
            }
            guard Self.isOption(argument) else {
                positional.append(argument)
                continue
            }
            let sides = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            guard let option = command.options.first(where: { $0.name == sides[0] }) else {
                let names = command.options.map(\.name)
                // `-r` and `-rate` are most likely short for `--rate`.
                let word = sides[0].hasPrefix("--") ? sides[0] : "-\(sides[0])"
                let nearest = names.first { $0.hasPrefix(word) } ?? Nearest.of(word, among: names)
                throw UsageError(
                    "`\(command.name)` has no option \(sides[0])"
                        + (nearest.map { "; did you mean \($0)?" } ?? "; see `tideline help \(command.name)`"))
            }
            if option.value == nil {
                guard sides.count == 1 else { throw UsageError("\(option.name) takes no value") }
                flags.insert(option.name)
            } else if sides.count == 2 {
                values[option.name, default: []].append(sides[1])
            } else {
                guard let value = rest.popFirst(), !command.options.contains(where: { $0.name == value }) else {
                    throw UsageError("\(option.name) needs a value: \(option.name) \(option.value ?? "")")
                }
                values[option.name, default: []].append(value)
            }
        }
        let needed = command.arguments.filter { !$0.hasPrefix("[") }.count
        guard positional.count >= needed else {
            throw UsageError("\(command.arguments[positional.count]) is missing: \(command.usage)")
        }
        guard positional.count <= command.arguments.count else {
            throw UsageError("`\(positional[command.arguments.count])` is one too many: \(command.usage)")
        }
        for option in command.options where values[option.name] == nil {
            values[option.name] = option.defaultValue.map { [$0] }
        }
        self.positional = positional
        self.values = values
        self.flags = flags
    }

    /// What begins with a dash is an option, but for a negative number and for `-`, which stands for standard input.
    private static func isOption(_ argument: String) -> Bool {
        argument.hasPrefix("-") && argument != "-" && Double(argument)?.isFinite != true
    }

    /// Of an option given twice the last counts.
    func string(_ name: String) -> String? { values[name]?.last }

    /// All values of an option that may be repeated.
    func strings(_ name: String) -> [String] { values[name] ?? [] }

    func flag(_ name: String) -> Bool { flags.contains(name) }

    func int(_ name: String, in range: ClosedRange<Int> = Int.min...Int.max) throws -> Int? {
        guard let text = string(name) else { return nil }
        guard let value = Int(text), range.contains(value) else {
            throw UsageError("\(name) is a whole number from \(range.lowerBound) to \(range.upperBound), not `\(text)`")
        }
        return value
    }

    func double(_ name: String) throws -> Double? {
        guard let text = string(name) else { return nil }
        guard let value = Double(text), value.isFinite else { throw UsageError("\(name) is a number, not `\(text)`") }
        return value
    }
}
