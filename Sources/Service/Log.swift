internal import Foundation
internal import Synchronization

/// Structured lines on standard error: a constant message, values beside it under shared keys.
package struct Log: Sendable {
    package enum Level: Int, Sendable, Comparable {
        case debug, info, warning, error

        package static func < (a: Level, b: Level) -> Bool { a.rawValue < b.rawValue }
        var name: String { ["debug", "info", "warning", "error"][rawValue] }
    }

    package let role: String
    package let minimum: Level

    package init(role: String, minimum: Level = .info) {
        self.role = role
        self.minimum = minimum
    }

    package func debug(
        _ message: StaticString, _ values: KeyValuePairs<String, any CustomStringConvertible & Sendable> = [:]
    ) {
        write(.debug, message, values)
    }

    package func info(
        _ message: StaticString, _ values: KeyValuePairs<String, any CustomStringConvertible & Sendable> = [:]
    ) {
        write(.info, message, values)
    }

    package func warning(
        _ message: StaticString, _ values: KeyValuePairs<String, any CustomStringConvertible & Sendable> = [:]
    ) {
        write(.warning, message, values)
    }

    package func error(
        _ message: StaticString, _ values: KeyValuePairs<String, any CustomStringConvertible & Sendable> = [:]
    ) {
        write(.error, message, values)
    }

    private func write(
        _ level: Level, _ message: StaticString, _ values: KeyValuePairs<String, any CustomStringConvertible & Sendable>
    ) {
        guard level >= minimum else { return }
        var line =
            "\(Date.now.formatted(.iso8601.time(includingFractionalSeconds: true))) \(level.name) \(role): \(message)"
        for (key, value) in values {
            let text = "\(value)"
            line +=
                text.contains(where: { $0 == " " || $0 == "\"" || $0.isNewline })
                ? " \(key)=\"\(text.replacing("\"", with: "'").replacing("\n", with: " "))\"" : " \(key)=\(text)"
        }
        line += "\n"
        // One write a line, so that lines of several threads do not mix.
        FileHandle.standardError.write(Data(line.utf8))
    }
}

/// Lets a message through at most once in an interval, and says how many were held back: a flood of bad events must
/// not become a flood of lines.
package final class LogLimiter: Sendable {
    private let state = Mutex<(next: Int64, suppressed: Int)>((0, 0))
    private let intervalMicroseconds: Int64

    package init(intervalMicroseconds: Int64 = 1_000_000) { self.intervalMicroseconds = intervalMicroseconds }

    /// Calls `write` with the number of messages held back since the last one that went through.
    package func limited(now: Int64, _ write: (_ suppressed: Int) -> Void) {
        let suppressed: Int? = state.withLock { state in
            guard now >= state.next else {
                state.suppressed += 1
                return nil
            }
            defer { state = (now + intervalMicroseconds, 0) }
            return state.suppressed
        }
        if let suppressed { write(suppressed) }
    }
}
