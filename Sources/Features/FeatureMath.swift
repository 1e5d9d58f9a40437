internal import CWindows
internal import Foundation

/// The arithmetic of features. Everything is computed in Float64 and rounded once, to Float32, at the end.
enum FeatureMath {
    /// Seconds of a day and of a week; 1970 began on a Thursday.
    private static let day: Int64 = 86_400_000_000

    static func clock(_ clock: Pipeline.Clock, _ time: Int64) -> Float {
        let dayIndex = time / day
        let hour = Double(time % day) / 3_600_000_000
        let weekday = (dayIndex + 3) % 7
        switch clock {
        case .hour: return Float(hour)
        case .weekday: return Float(weekday)
        case .night: return hour < 6 ? 1 : 0
        case .weekend: return weekday >= 5 ? 1 : 0
        }
    }

    static func logOnePlus(_ value: Double) -> Float { value >= 0 ? Float(log1p(value)) : .nan }

    static func mean(_ window: UnsafePointer<tl_window_t>, measure: Int) -> Double {
        let measured = unsafe measured(window, measure)
        return unsafe measured.pointee.count > 0 ? measured.pointee.sum / Double(measured.pointee.count) : .nan
    }

    static func statistic(
        _ statistic: Pipeline.Statistic, _ window: UnsafePointer<tl_window_t>, measure: Int
    ) -> Float {
        if statistic == .count { return unsafe Float(window.pointee.count) }
        let measured = unsafe measured(window, measure)
        let count = unsafe measured.pointee.count
        switch statistic {
        case .count: return Float(count)
        case .sum: return unsafe Float(measured.pointee.sum)
        case .mean: return unsafe Float(mean(window, measure: measure))
        case .max: return unsafe count > 0 ? measured.pointee.max : .nan
        case .min: return unsafe count > 0 ? measured.pointee.min : .nan
        case .stddev:
            guard count > 0 else { return .nan }
            // Of equal values only the sums' rounding would be left, and a spread below Float32's is no larger than it.
            guard unsafe measured.pointee.max > measured.pointee.min else { return 0 }
            let mean = unsafe measured.pointee.sum / Double(count)
            return unsafe Float(max(0, measured.pointee.square / Double(count) - mean * mean).squareRoot())
        }
    }

    static func distinct(_ window: UnsafePointer<tl_window_t>, distinct: Int) -> Float {
        let bytes = unsafe UnsafeRawPointer(window) + MemoryLayout<tl_window_t>.offset(of: \.sketch)!
        return unsafe Float(
            tl_sketch_estimate(
                (bytes + distinct * Int(TL_SKETCH_BYTES)).assumingMemoryBound(to: UInt8.self)))
    }

    /// The C array imports as a tuple: reached by its address.
    private static func measured(
        _ window: UnsafePointer<tl_window_t>, _ index: Int
    ) -> UnsafePointer<tl_measured_t> {
        let base = unsafe UnsafeRawPointer(window) + MemoryLayout<tl_window_t>.offset(of: \.measured)!
        return unsafe base.assumingMemoryBound(to: tl_measured_t.self) + index
    }
}
