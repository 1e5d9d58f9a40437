import Synchronization

/// The figures of a process, rendered as Prometheus reads them (text format 0.0.4).
///
/// A series is registered once, at the start, and then changed without a lock. Its labels come from bounded sets; ids
/// never are labels. Registering the same name and labels again gives the same series; another kind or help for a
/// known name traps.
package final class Metrics: Sendable {
    private let families = Mutex<[Family]>([])

    private struct Family {
        let name: String
        let help: String
        let kind: String
        var series: [(labels: String, value: Series)]
    }

    private enum Series {
        case counter(Counter)
        case gauge(Gauge)
        case function(@Sendable () -> Double)
        case histogram(Histogram)
    }

    package init() {}

    package func counter(_ name: String, help: String, labels: [(String, String)] = []) -> Counter {
        let series = register(name, help, "counter", labels) { .counter(Counter()) }
        guard case .counter(let counter) = series else { preconditionFailure("\(name) is no counter") }
        return counter
    }

    package func gauge(_ name: String, help: String, labels: [(String, String)] = []) -> Gauge {
        let series = register(name, help, "gauge", labels) { .gauge(Gauge()) }
        guard case .gauge(let gauge) = series else { preconditionFailure("\(name) is no plain gauge") }
        return gauge
    }

    /// A gauge that is asked for its value when the figures are rendered; it must not block.
    package func gauge(
        _ name: String, help: String, labels: [(String, String)] = [], value: @escaping @Sendable () -> Double
    ) {
        _ = register(name, help, "gauge", labels) { .function(value) }
    }

    /// - Parameter buckets: upper bounds, ascending, without infinity; the same for all series of a name.
    package func histogram(
        _ name: String, help: String, labels: [(String, String)] = [], buckets: [Double] = Histogram.latencySeconds
    ) -> Histogram {
        let series = register(name, help, "histogram", labels) { .histogram(Histogram(buckets: buckets)) }
        guard case .histogram(let histogram) = series else { preconditionFailure("\(name) is no histogram") }
        return histogram
    }

    /// All figures as text.
    package func render() -> [UInt8] {
        var out: [UInt8] = []
        let families = self.families.withLock { $0 }
        for family in families {
            out.append(text: "# HELP \(family.name) \(Self.escape(family.help, quotes: false))\n")
            out.append(text: "# TYPE \(family.name) \(family.kind)\n")
            for (labels, series) in family.series {
                switch series {
                case .counter(let counter):
                    out.append(text: "\(family.name)\(Self.braced(labels)) \(counter.value)\n")
                case .gauge(let gauge):
                    out.append(text: "\(family.name)\(Self.braced(labels)) \(Self.number(gauge.value))\n")
                case .function(let value):
                    out.append(text: "\(family.name)\(Self.braced(labels)) \(Self.number(value()))\n")
                case .histogram(let histogram):
                    Self.render(histogram, family.name, labels, to: &out)
                }
            }
        }
        return out
    }

    /// The figures as an answer.
    package var response: Response { Response(contentType: .prometheus, body: render()) }

    // MARK: Private

    private func register(
        _ name: String, _ help: String, _ kind: String, _ labels: [(String, String)], _ make: () -> Series
    ) -> Series {
        precondition(Self.isName(name, colons: true), "\(name) is no metric name")
        precondition(
            labels.allSatisfy { Self.isName($0.0, colons: false) && $0.0 != "le" }, "a label of \(name) is none")
        let text = labels.map { "\($0.0)=\"\(Self.escape($0.1, quotes: true))\"" }.joined(separator: ",")
        return families.withLock { families in
            guard let index = families.firstIndex(where: { $0.name == name }) else {
                let series = make()
                families.append(Family(name: name, help: help, kind: kind, series: [(text, series)]))
                return series
            }
            precondition(families[index].kind == kind, "\(name) is registered as another kind")
            if let known = families[index].series.first(where: { $0.labels == text }) { return known.value }
            let series = make()
            families[index].series.append((text, series))
            return series
        }
    }

    private static func render(_ histogram: Histogram, _ name: String, _ labels: String, to out: inout [UInt8]) {
        let prefix = labels.isEmpty ? "" : labels + ","
        let counts = histogram.counts
        var total: UInt64 = 0
        for (bound, count) in zip(histogram.buckets + [.infinity], counts) {
            total += count
            out.append(text: "\(name)_bucket{\(prefix)le=\"\(number(bound))\"} \(total)\n")
        }
        out.append(text: "\(name)_sum\(braced(labels)) \(number(histogram.sum))\n")
        out.append(text: "\(name)_count\(braced(labels)) \(total)\n")
    }

    private static func braced(_ labels: String) -> String { labels.isEmpty ? "" : "{\(labels)}" }

    static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        if value == value.rounded(.towardZero), value.magnitude < 1e15 { return String(Int64(value)) }
        return value.description
    }

    private static func escape(_ text: String, quotes: Bool) -> String {
        var out = ""
        for character in text.unicodeScalars {
            switch character {
            case "\\": out += "\\\\"
            case "\n": out += "\\n"
            case "\"" where quotes: out += "\\\""
            default: out.unicodeScalars.append(character)
            }
        }
        return out
    }

    private static func isName(_ text: String, colons: Bool) -> Bool {
        guard let first = text.utf8.first, !(0x30...0x39).contains(first) else { return false }
        return text.utf8.allSatisfy { byte in
            (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
                || byte == UInt8(ascii: "_") || (colons && byte == UInt8(ascii: ":"))
        }
    }
}

/// A figure that only grows.
package final class Counter: Sendable {
    private let count = Atomic<UInt64>(0)

    package init() {}

    package func increment(by amount: UInt64 = 1) { count.wrappingAdd(amount, ordering: .relaxed) }
    package var value: UInt64 { count.load(ordering: .relaxed) }
}

/// A figure that goes up and down.
package final class Gauge: Sendable {
    private let bits = Atomic<UInt64>(0)

    package init() {}

    package func set(_ value: Double) { bits.store(value.bitPattern, ordering: .relaxed) }
    package func add(_ amount: Double) { bits.add(amount) }
    package var value: Double { Double(bitPattern: bits.load(ordering: .relaxed)) }
}

extension Atomic where Value == UInt64 {
    /// Adds to a `Double` that is kept as its bits.
    func add(_ amount: Double) {
        var old = load(ordering: .relaxed)
        while true {
            let new = (Double(bitPattern: old) + amount).bitPattern
            let (exchanged, original) = weakCompareExchange(expected: old, desired: new, ordering: .relaxed)
            if exchanged { return }
            old = original
        }
    }
}
