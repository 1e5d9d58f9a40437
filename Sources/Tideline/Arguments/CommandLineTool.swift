import Foundation

/// The tool: finds the command, and turns what it throws into one line and an exit code.
///
/// Exit codes: 0 all holds, 1 it does not hold or it failed, 2 bad input, 64 a mistake in the call.
struct CommandLineTool: Sendable {
    let name: String
    let version: String
    let summary: String
    let commands: [Command]

    func main(_ arguments: [String]) -> Int32 {
        do {
            return try run(arguments)
        } catch let error as UsageError {
            complain(error.description)
            return 64
        } catch {
            complain("\(error)")
            return 2
        }
    }

    private func run(_ arguments: [String]) throws -> Int32 {
        guard let first = arguments.first, first != "-h", first != "--help" else {
            print(help)
            return 0
        }
        if first == "--version" {
            print("\(name) \(version)")
            return 0
        }
        if first == "_child" { return ChildCommand.run(Array(arguments.dropFirst())) }
        let words = first == "help" ? Array(arguments.dropFirst()) : arguments
        guard !words.isEmpty else {
            print(help)
            return 0
        }
        let (command, rest) = try find(words)
        if first == "help" || rest.contains("-h") || rest.contains("--help") {
            print(command.help)
            return 0
        }
        return try command.run(ParsedArguments(rest, of: command))
    }

    private func find(_ words: [String]) throws -> (Command, [String]) {
        for length in [2, 1] where words.count >= length {
            let name = words[..<length].joined(separator: " ")
            if let command = commands.first(where: { $0.name == name }) { return (command, Array(words[length...])) }
        }
        let group = commands.filter { $0.name.hasPrefix(words[0] + " ") }
        if !group.isEmpty {
            throw UsageError("`\(words[0])` needs a second word: " + group.map(\.name).joined(separator: ", "))
        }
        let nearest = Nearest.of(words[0], among: commands.map(\.name))
        throw UsageError(
            "no command `\(words[0])`" + (nearest.map { "; did you mean `\($0)`?" } ?? "; see `tideline --help`"))
    }

    private var help: String {
        let width = (commands.map(\.name.count).max() ?? 0) + 2
        let list = commands.map { "  \($0.name)\(String(repeating: " ", count: width - $0.name.count))\($0.summary)" }
        return """
            \(summary)

            Usage: \(name) COMMAND [options]

            Commands:
            \(list.joined(separator: "\n"))

            `\(name) help COMMAND` says more, with an example. Begin with: \(name) up
            """
    }

    private func complain(_ text: String) { FileHandle.standardError.write(Data("\(name): \(text)\n".utf8)) }
}
