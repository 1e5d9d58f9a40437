internal import Foundation
internal import Synchronization

/// Where times come from. The second implementation is the simulation's.
package protocol WallClock: Sendable {
    /// Microseconds since 1970.
    var now: Int64 { get }
    /// Microseconds of a clock that nobody sets, which goes on while the machine sleeps. What it shows says nothing to
    /// another machine; only differences do.
    var unset: Int64 { get }
}

/// The machine's clock, as a `SteadyClock` of the process shows it.
package struct SystemClock: WallClock {
    private static let steady = SteadyClock(RealTime())

    package init() {}

    package var now: Int64 { Self.steady.now }
    package var unset: Int64 { Self.steady.unset }
}

private struct RealTime: WallClock {
    var now: Int64 { microseconds(of: CLOCK_REALTIME) }
    var unset: Int64 { microseconds(of: CLOCK_BOOTTIME) }
}

/// A clock that is never seen to go back, nor to stand still. When what it shows is set back, it goes on from where it was,
/// and runs a sixteenth slower until both agree. How much time has passed meanwhile a clock says that nobody sets.
///
/// Silence, sessions and repairs are measured by it: a region whose clock was set back by an hour must not call itself
/// fresh for that hour, nor a core wait so long for its next batch. A leap forward passes.
package final class SteadyClock: WallClock {
    private let shown: any WallClock
    private let state: Mutex<(last: Int64, lastUnset: Int64, ahead: Int64)>

    package init(_ shown: any WallClock) {
        self.shown = shown
        state = Mutex((shown.now, shown.unset, 0))
    }

    package var now: Int64 {
        state.withLock { state in
            let (time, unset) = (shown.now, shown.unset)
            let passed = max(0, unset - state.lastUnset)
            // By how much it was set since it was last read.
            let set = time - state.last - passed
            state.ahead = max(0, state.ahead - set)
            state.ahead -= min(state.ahead, passed / 16)
            (state.last, state.lastUnset) = (time, unset)
            return time + state.ahead
        }
    }

    package var unset: Int64 { shown.unset }
}

/// Microseconds of a clock that never steps, for durations within one process.
package func monotonicMicroseconds() -> Int64 { microseconds(of: CLOCK_MONOTONIC) }

private func microseconds(of clock: clockid_t) -> Int64 {
    var time = timespec()
    unsafe clock_gettime(clock, &time)
    return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1000
}
