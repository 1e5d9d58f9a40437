import Service

/// A machine's clock, which may be set wrong. A process reads it through a `SteadyClock`.
///
/// `@unchecked Sendable`: a history runs in one thread.
final class SimulatedClock: WallClock, @unchecked Sendable {
    /// A history's time, which only the scheduler moves: what all its clocks share.
    final class Time {
        /// Microseconds since 1970: an hour after a midnight, so that a history's events share a day's tile.
        var now: Int64 = 1_790_121_600_000_000 + 3_600_000_000
        fileprivate var clocks: Int64 = 0
    }

    private let time: Time
    /// How far this clock was set from the true time, microseconds.
    private var offset: Int64 = 0
    /// Which of the history's clocks it is.
    private let number: Int64
    private let began: Int64

    init(_ time: Time) {
        self.time = time
        began = time.now
        number = time.clocks
        time.clocks += 1
    }

    var now: Int64 { time.now + offset }

    /// Each machine's has another origin, and runs up to .02 % fast or slow.
    var unset: Int64 {
        let passed = time.now - began
        return 1_000_000_007 * (number + 1) + passed + passed / 10_000 * (number % 5 - 2)
    }

    func jump(_ microseconds: Int64) { offset += microseconds }
}
