import Service

/// A history's time, which only the scheduler moves, and a process's own reading of it, which may be set wrong.
///
/// `@unchecked Sendable`: a history runs in one thread.
final class SimulatedClock: WallClock, @unchecked Sendable {
    /// What all clocks of a history share.
    final class Time {
        /// Microseconds since 1970: an hour after a midnight, so that a history's events share a day's tile.
        var now: Int64 = 1_790_121_600_000_000 + 3_600_000_000
    }

    private let time: Time
    /// As the process reads it.
    private(set) lazy var steady = SteadyClock(Shown(clock: self))

    /// `@unchecked Sendable`: a history runs in one thread.
    private struct Shown: WallClock, @unchecked Sendable {
        unowned let clock: SimulatedClock
        var now: Int64 { clock.now }
    }
    /// How far this process's clock was set from the true time, microseconds.
    private(set) var offset: Int64

    init(_ time: Time, offset: Int64 = 0) {
        self.time = time
        self.offset = offset
    }

    var now: Int64 { time.now + offset }

    func jump(_ microseconds: Int64) { offset += microseconds }
}
