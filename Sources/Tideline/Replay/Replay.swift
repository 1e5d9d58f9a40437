import Features
import Glibc
import Service

/// One run of a file through a core.
struct Replay {
    let source: ReplaySource
    let poster: EventPoster
    let decoder: EventDecoder
    let check: ScoreCheck?
    /// Times the events' own pace; `nil` is as fast as it goes.
    let speed: Double?
    let limit: Int

    private let progress = ProgressLine()
    private var pending: [UInt8] = []
    private var pendingEvents = 0
    private var pendingRow = 0
    private var began: Int64 = 0
    private var firstTime: Int64?
    private static let batchEvents = 1000
    private static let batchBytes = 1 << 20
    /// A batch is not held back longer than this for the next event.
    private static let patienceMicroseconds: Int64 = 10_000

    init(
        source: ReplaySource, poster: EventPoster, decoder: EventDecoder, check: ScoreCheck?, speed: Double?, limit: Int
    ) {
        self.source = source
        self.poster = poster
        self.decoder = decoder
        self.check = check
        self.speed = speed
        self.limit = limit
    }

    /// Sends everything and tells what became of it. Returns the exit code: 1 where rows were refused.
    mutating func run() throws -> Int32 {
        began = monotonicMicroseconds()
        var isStopped = false
        var problem: (any Error)?
        do {
            rows: while source.row < limit {
                switch try source.next() {
                case .end: break rows
                case .refused(let reason):
                    poster.refuse("row \(source.row): \(reason)")
                    flush()
                case .event:
                    if speed != nil || check != nil, !admit() {
                        isStopped = true
                        break rows
                    }
                    append()
                }
                if source.row & 255 == 0 {
                    show()
                    isStopped = StopRequest.isPending
                    if isStopped || poster.counts.failure != nil { break }
                }
            }
        } catch {
            problem = error
        }
        flush()
        poster.finish(unless: { StopRequest.isPending }, meanwhile: show)
        progress.end()
        return try report(isStopped: isStopped, problem)
    }

    private mutating func append() {
        if pendingEvents == 0 { pendingRow = source.row }
        pending.append(contentsOf: source.event)
        pending.append(10)
        pendingEvents += 1
        if pendingEvents >= Self.batchEvents || pending.count >= Self.batchBytes { flush() }
    }

    private mutating func flush() {
        guard pendingEvents > 0 else { return }
        poster.post(pending, events: pendingEvents, firstRow: pendingRow) {
            show()
            return StopRequest.isPending
        }
        pending = []
        pendingEvents = 0
    }

    /// Notes the event's label and waits for its time to come. Returns whether to go on. An event that cannot be read goes
    /// out at once: the core says what is wrong with it.
    private mutating func admit() -> Bool {
        // What the decoder hands out is lent by the event's bytes.
        unsafe source.event.withUnsafeBytes { event in
            guard unsafe decoder.decode(event, readable: event.count) == nil else { return true }
            check?.note(decoder)
            return speed.map { waitUntilDue($0) } ?? true
        }
    }

    private mutating func waitUntilDue(_ speed: Double) -> Bool {
        let first = firstTime ?? decoder.time
        firstTime = first
        let due = began + Int64(Double(decoder.time - first) / speed)
        if due - monotonicMicroseconds() > Self.patienceMicroseconds { flush() }
        while true {
            let rest = due - monotonicMicroseconds()
            if rest <= 0 { return true }
            usleep(UInt32(min(rest, 50_000)))
            show()
            if StopRequest.isPending || poster.counts.failure != nil { return false }
        }
    }

    private func show() {
        progress.show {
            let seconds = Double(monotonicMicroseconds() - began) / 1_000_000
            let counts = poster.counts
            var text = "\(source.row) rows, \(counts.accepted) accepted, \(counts.refused) refused, "
            text += "\(Int(Double(counts.accepted) / max(0.001, seconds)))/s"
            if let fraction = source.bytes.fraction, fraction > 0.001 {
                text += ", \(Int(fraction * 100)) %, \(ProgressLine.duration(seconds * (1 - fraction) / fraction)) left"
            }
            return text + (counts.trouble.map { "; \($0)" } ?? "")
        }
    }

    private func report(isStopped: Bool, _ problem: (any Error)?) throws -> Int32 {
        let counts = poster.counts
        let seconds = Double(monotonicMicroseconds() - began) / 1_000_000
        print(
            "\(source.row) rows\(isStopped ? " (stopped)" : ""): \(counts.accepted) accepted, \(counts.refused) refused, "
                + "\(counts.retries) posts again; \((seconds * 10).rounded() / 10) s, "
                + "\(Int(Double(counts.accepted) / max(0.001, seconds))) events/s")
        for reason in counts.reasons { print("  refused: \(reason)") }
        if counts.refused > counts.reasons.count { print("  refused: … \(counts.refused - counts.reasons.count) more") }
        if let check, counts.accepted > 0, !isStopped, counts.failure == nil {
            print("  \(try check.result { StopRequest.isPending })")
        }
        if let failure = counts.failure { throw InputError(failure) }
        if let problem { throw problem }
        return counts.refused == 0 ? 0 : 1
    }
}

/// Whether a signal that `RoleShell.prepare` holds back asks the command to end.
enum StopRequest {
    static var isPending: Bool {
        var pending = sigset_t()
        unsafe sigpending(&pending)
        return unsafe sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1
    }
}
