import Changes
import Glibc
import Service

/// Transactions as they happen: made at a rate, posted about every 10 ms, until a signal or the end asked for.
struct LiveTraffic {
    struct Options {
        /// Events a second; `nil` is as many as the core takes.
        var rate: Double?
        var seconds: Double?
        var count: Int?
        /// How long a day of the fraud scenarios lasts, in seconds.
        var daySeconds: Double
    }

    private var simulator: CardSimulator
    private let poster: EventPoster
    private let options: Options
    private let progress = ProgressLine()
    /// Of this run alone, so that ids are never those of an earlier run.
    private let prefix = "t-\(String(UInt32.random(in: 0...(.max)), radix: 36))-"
    private var began: Int64 = 0
    private var made = 0
    private static let batchEvents = 1000
    private static let paceMicroseconds: Int64 = 10_000
    /// The scenarios begin here: all kinds of fraud are under way from the first event on.
    static let firstDay = 28

    init(_ simulator: CardSimulator, to poster: EventPoster, _ options: Options) {
        self.simulator = simulator
        self.poster = poster
        self.options = options
    }

    /// Returns the exit code: 1 where the core refused events.
    mutating func run() throws -> Int32 {
        began = monotonicMicroseconds()
        var paceFrom = began
        var paced = 0
        while !StopRequest.isPending, poster.counts.failure == nil {
            let now = monotonicMicroseconds()
            let elapsed = Double(now - began) / 1_000_000
            if let seconds = options.seconds, elapsed >= seconds { break }
            if let count = options.count, made >= count { break }
            simulator.begin(day: Self.firstDay + Int(elapsed / options.daySeconds))
            var due = Self.batchEvents
            if let rate = options.rate {
                let wanted = Double(now - paceFrom) / 1_000_000 * rate
                due = Int(wanted) - paced
                // What a core that was away did not take for more than a second is not made up for.
                if Double(due) > max(rate, 10) {
                    paceFrom = now
                    paced = 0
                    due = 1
                }
            }
            due = min(due, Self.batchEvents, (options.count ?? .max) - made)
            if due > 0, !send(due) { break }
            paced += max(0, due)
            progress.show { line }
            let rest = Self.paceMicroseconds - (monotonicMicroseconds() - now)
            if options.rate != nil, due < Self.batchEvents, rest > 0 { usleep(UInt32(rest)) }
        }
        poster.finish(unless: { StopRequest.isPending }, meanwhile: { progress.show { line } })
        progress.end()
        print(line)
        for reason in poster.counts.reasons { print("  refused: \(reason)") }
        if let failure = poster.counts.failure { throw InputError(failure) }
        return poster.counts.refused == 0 ? 0 : 1
    }

    private mutating func send(_ count: Int) -> Bool {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count * 160)
        let now = SystemClock().now
        // Spread over the time since the last batch; flat out, one time serves a batch.
        let step = options.rate.map { min(Self.paceMicroseconds / Int64(count), Int64(1_000_000 / $0)) } ?? 0
        var time = Timestamp.text(now)
        for index in 0..<count {
            if step > 0 { time = Timestamp.text(now - Int64(count - 1 - index) * step) }
            CardEvent.append(simulator.next(), id: prefix, number: made + index, time: time, to: &bytes)
        }
        made += count
        return poster.post(bytes, events: count) {
            progress.show { line }
            return StopRequest.isPending
        }
    }

    private var line: String {
        let counts = poster.counts
        let seconds = max(0.001, Double(monotonicMicroseconds() - began) / 1_000_000)
        return "sent \(counts.accepted), \(Int(Double(counts.accepted) / seconds))/s, refused \(counts.refused), "
            + "sent again \(counts.retries)" + (counts.trouble.map { "; \($0)" } ?? "")
    }
}
