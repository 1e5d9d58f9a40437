internal import Foundation

/// Tells the loops of a role to end, and lets them sleep until it does.
///
/// `@unchecked Sendable`: all state is guarded by the condition.
package final class StopSignal: @unchecked Sendable {
    private let condition = NSCondition()
    private var stopped = false

    package init() {}

    package var isStopped: Bool {
        condition.lock()
        defer { condition.unlock() }
        return stopped
    }

    package func stop() {
        condition.lock()
        stopped = true
        condition.broadcast()
        condition.unlock()
    }

    /// Sleeps up to so long. Returns whether to stop.
    @discardableResult
    package func wait(seconds: Double) -> Bool {
        condition.lock()
        defer { condition.unlock() }
        let deadline = Date(timeIntervalSinceNow: seconds)
        while !stopped, condition.wait(until: deadline) {}
        return stopped
    }
}

/// A thread of a role, named for debuggers, whose end can be waited for.
package final class RoleThread: Sendable {
    private let done = StopSignal()

    package init(name: String, stackBytes: Int = 1 << 20, _ body: @escaping @Sendable () -> Void) {
        let done = done
        let work = Work(body)
        let thread = Thread {
            work.run()
            done.stop()
        }
        thread.name = name
        thread.stackSize = stackBytes
        thread.start()
    }

    /// Lets go of what the body holds before anyone is told that the thread has ended.
    ///
    /// `@unchecked Sendable`: the thread alone calls `run`.
    private final class Work: @unchecked Sendable {
        private var body: (@Sendable () -> Void)?

        init(_ body: @escaping @Sendable () -> Void) { self.body = body }

        func run() {
            body?()
            body = nil
        }
    }

    /// Waits for the thread's end. Returns whether it came in time.
    @discardableResult
    package func join(seconds: Double) -> Bool { done.wait(seconds: seconds) }
}

/// Wakes a loop that waits for work; a wake that comes before the wait is not lost.
///
/// `@unchecked Sendable`: all state is guarded by the condition.
package final class WakeSignal: @unchecked Sendable {
    private let condition = NSCondition()
    private var pending = false

    package init() {}

    package func wake() {
        condition.lock()
        if !pending {
            pending = true
            condition.signal()
        }
        condition.unlock()
    }

    /// Waits for a wake, or so long. Returns whether there was one.
    @discardableResult
    package func wait(microseconds: Int) -> Bool {
        condition.lock()
        defer {
            pending = false
            condition.unlock()
        }
        let deadline = Date(timeIntervalSinceNow: Double(microseconds) / 1_000_000)
        while !pending, condition.wait(until: deadline) {}
        return pending
    }
}
