import Glibc
import Service

/// How a long command stands, on standard error: one line that is redrawn on a terminal, a plain line every ten seconds
/// elsewhere.
final class ProgressLine {
    private let isTerminal = isatty(STDERR_FILENO) != 0
    private var next: Int64
    private var drawn = false

    init() { next = monotonicMicroseconds() + (isTerminal ? 200_000 : 10_000_000) }

    /// Shows `text` when it is time to.
    func show(_ text: () -> String) {
        let now = monotonicMicroseconds()
        guard now >= next else { return }
        next = now + (isTerminal ? 500_000 : 10_000_000)
        drawn = isTerminal
        put(isTerminal ? "\r\u{1B}[K\(text())" : "\(text())\n")
    }

    /// Wipes the line off a terminal.
    func end() {
        if drawn { put("\r\u{1B}[K") }
        drawn = false
    }

    /// `1 h 02 min`, `3 min 05 s`, `12 s`.
    static func duration(_ seconds: Double) -> String {
        let whole = Int(min(max(0, seconds), 1e9).rounded())
        func two(_ value: Int) -> String { value < 10 ? "0\(value)" : "\(value)" }
        if whole >= 3600 { return "\(whole / 3600) h \(two(whole / 60 % 60)) min" }
        return whole >= 60 ? "\(whole / 60) min \(two(whole % 60)) s" : "\(whole) s"
    }

    private func put(_ text: String) {
        let bytes = Array(text.utf8)
        _ = unsafe write(STDERR_FILENO, bytes, bytes.count)
    }
}
