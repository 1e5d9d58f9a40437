internal import Foundation

/// Where times come from. The second implementation is the simulation's.
package protocol WallClock: Sendable {
    /// Microseconds since 1970.
    var now: Int64 { get }
}

package struct SystemClock: WallClock {
    package init() {}

    package var now: Int64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1000
    }
}

/// Microseconds of a clock that never steps, for durations within one process.
package func monotonicMicroseconds() -> Int64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_nsec) / 1000
}
