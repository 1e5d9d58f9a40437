import Foundation
import Glibc

/// Shows a world: one screen that is redrawn where there is a terminal, plain lines elsewhere.
final class WorldScreen {
    private let world: World
    private let isTerminal = isatty(STDOUT_FILENO) != 0
    private var drawn = 0
    private var lastScored: Double?
    private var lastAt = Date()
    private var nextLine = Date.distantPast

    init(_ world: World) { self.world = world }

    func say(_ text: String) {
        erase()
        print(text)
        fflush(nil)
    }

    func end(_ text: String) { say(text) }

    func ready(seconds: Double) {
        say("every region is fresh after \(String(format: "%.1f", seconds)) s")
        for region in world.configuration.regions { say("  region \(region): \(world.url("edge-\(region)"))/") }
        say("  core:      \(world.url("core"))/v1/status")
        say("  bus:       \(world.url("nats"))")
        say(
            "try: curl '\(world.url("edge-\(world.configuration.regions[0])"))/v1/events?limit=3'   (Ctrl-C ends the world)"
        )
    }

    func show(core: [String: Any]?, regions: [String: [String: Any]]) {
        let now = Date()
        let scored = (core?["scored"] as? NSNumber)?.doubleValue
        var rate: Double?
        // A core that was restarted counts from zero again.
        if let scored, let lastScored, scored >= lastScored {
            rate = (scored - lastScored) / max(0.001, now.timeIntervalSince(lastAt))
        }
        lastScored = scored
        lastAt = now
        let lines = self.lines(core: core, rate: rate, regions: regions)
        if isTerminal {
            erase()
            print(lines.joined(separator: "\n"))
            drawn = lines.count
            fflush(nil)
        } else if now >= nextLine {
            nextLine = now.addingTimeInterval(10)
            print(lines.map { $0.trimmingCharacters(in: .whitespaces) }.joined(separator: " | "))
            fflush(nil)
        }
    }

    private func lines(core: [String: Any]?, rate: Double?, regions: [String: [String: Any]]) -> [String] {
        var lines: [String] = []
        if let core {
            let rateText = rate.map { String(format: "%8.0f events/s", $0) } ?? "         events/s"
            lines.append(
                "core       \(rateText)   scored \(number(core["scored"]))  flagged \(number(core["flagged"]))  "
                    + "duplicates \(number(core["duplicates"]))  dead letters \(number(core["deadLetters"]))  "
                    + "waiting \(number(core["backlogEvents"]))")
            let stages = core["stages"] as? [String: [String: Any]] ?? [:]
            lines.append(
                "stages     "
                    + ["queued", "score", "commit", "total"].map { name in
                        "\(name) \(milliseconds(stages[name]?["p50Milliseconds"]))/\(milliseconds(stages[name]?["p99Milliseconds"]))"
                    }.joined(separator: "   ") + "   ms, p50/p99")
        } else {
            lines.append("core       does not answer: the regions go on, and say how stale they are")
        }
        for region in world.configuration.regions {
            guard let status = regions[region] else {
                lines.append("\(pad("region \(region)", 11))does not answer")
                continue
            }
            let visible = status["ingestToVisibleMilliseconds"] as? [String: Any]
            let partitions = status["partitions"] as? [[String: Any]] ?? []
            let lag = partitions.reduce(0) { total, partition in
                total
                    + max(
                        0,
                        ((partition["head"] as? NSNumber)?.intValue ?? 0)
                            - ((partition["seq"] as? NSNumber)?.intValue ?? 0))
            }
            lines.append(
                "\(pad("region \(region)", 11))\(pad(status["state"] as? String ?? "?", 13))"
                    + "\(pad("\(number(status["stalenessMilliseconds"])) ms old", 14))lag \(lag) batches   "
                    + "visible \(milliseconds(visible?["p50"]))/\(milliseconds(visible?["p99"])) ms   "
                    + "\(number(status["vectors"])) vectors   \(world.url("edge-\(region)"))/")
        }
        return lines
    }

    private func erase() {
        guard isTerminal, drawn > 0 else { return }
        print("\u{1B}[\(drawn)A\u{1B}[J", terminator: "")
        drawn = 0
    }

    private func number(_ value: Any?) -> String { (value as? NSNumber).map { "\($0.intValue)" } ?? "–" }

    private func milliseconds(_ value: Any?) -> String {
        (value as? NSNumber).map { String(format: "%.1f", $0.doubleValue) } ?? "–"
    }

    private func pad(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(1, width - text.count))
    }
}
