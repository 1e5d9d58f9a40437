internal import Synchronization

/// Durations in buckets whose width is 1/32 of their value: any percentile is right to 3 %, memory is fixed.
///
/// Method: the log-linear buckets of HdrHistogram. Thread-safe.
package final class LatencySketch: Sendable {
    private static let sub = 32
    private static let buckets = sub * 28  // up to 2^32 µs and beyond, clamped
    private let counts = Mutex<[UInt64]>(Array(repeating: 0, count: buckets))

    package init() {}

    /// Records a duration in microseconds, `weight` times.
    package func record(_ microseconds: Int64, weight: UInt64 = 1) {
        let index = Self.index(microseconds)
        counts.withLock { $0[index] += weight }
    }

    package struct Summary: Sendable {
        package var count: UInt64
        /// Microseconds.
        package var p50: Double
        package var p99: Double
        package var p999: Double
        package var max: Double
    }

    package func summary() -> Summary {
        let copy = counts.withLock { $0 }
        let total = copy.reduce(0, +)
        func quantile(_ q: Double) -> Double {
            guard total > 0 else { return 0 }
            let rank = UInt64((Double(total) * q).rounded(.up))
            var seen: UInt64 = 0
            for (index, count) in copy.enumerated() {
                seen += count
                if seen >= max(rank, 1) { return Self.value(index) }
            }
            return 0
        }
        return Summary(
            count: total, p50: quantile(0.5), p99: quantile(0.99), p999: quantile(0.999),
            max: copy.lastIndex { $0 > 0 }.map(Self.value) ?? 0)
    }

    private static func index(_ microseconds: Int64) -> Int {
        let value = UInt64(Swift.max(0, microseconds))
        guard value >= UInt64(sub) else { return Int(value) }
        let shift = 63 - value.leadingZeroBitCount - 5
        return min(buckets - 1, (shift + 1) * sub + Int(value >> UInt64(shift)) - sub)
    }

    /// The middle of a bucket, in microseconds.
    private static func value(_ index: Int) -> Double {
        guard index >= sub else { return Double(index) }
        let shift = index / sub - 1
        let low = UInt64(index % sub + sub) << UInt64(shift)
        return Double(low) + Double((UInt64(1) << UInt64(shift)) - 1) / 2
    }
}
