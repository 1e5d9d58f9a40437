import Synchronization

/// How often values fell under fixed bounds.
///
/// `@unchecked Sendable`: the cells are atomics in memory of its own, which only `deinit` frees.
@safe package final class Histogram: @unchecked Sendable {
    /// Upper bounds of latencies in seconds, from 50 µs to 10 s.
    package static let latencySeconds: [Double] = [
        0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
    ]

    package let buckets: [Double]
    private let cells: UnsafeMutablePointer<Atomic<UInt64>>
    private let total = Atomic<UInt64>(0)

    package init(buckets: [Double]) {
        precondition(
            !buckets.isEmpty && zip(buckets, buckets.dropFirst()).allSatisfy { $0 < $1 }, "buckets must ascend")
        self.buckets = buckets
        unsafe cells = UnsafeMutablePointer.allocate(capacity: buckets.count + 1)
        for index in 0...buckets.count { unsafe (cells + index).initialize(to: Atomic(0)) }
    }

    deinit {
        unsafe cells.deinitialize(count: buckets.count + 1)
        unsafe cells.deallocate()
    }

    /// Counts one value; one that is no number is counted as infinite.
    package func observe(_ value: Double) {
        var low = 0
        var high = buckets.count
        while low < high {
            let middle = (low + high) / 2
            if value <= buckets[middle] { high = middle } else { low = middle + 1 }
        }
        unsafe cells[low].wrappingAdd(1, ordering: .relaxed)
        if value.isFinite { total.add(value) }
    }

    package var sum: Double { Double(bitPattern: total.load(ordering: .relaxed)) }

    /// The counts of each bucket alone, the last one beyond all bounds.
    package var counts: [UInt64] {
        (0...buckets.count).map { unsafe cells[$0].load(ordering: .relaxed) }
    }

    package var count: UInt64 { counts.reduce(0, +) }
}
