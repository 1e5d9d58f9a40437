internal import Synchronization
import Service

/// When the brokers last answered.
package final class Contact: Sendable {
    private let at: Atomic<Int64>
    private let clock: any WallClock
    /// Reports go out once a second.
    private static let patience: Int64 = 4_000_000

    package init(_ clock: any WallClock) {
        self.clock = clock
        at = Atomic(clock.now)
    }

    package func heard() { at.store(clock.now, ordering: .relaxed) }

    package var isRecent: Bool { clock.now - at.load(ordering: .relaxed) < Self.patience }
}
