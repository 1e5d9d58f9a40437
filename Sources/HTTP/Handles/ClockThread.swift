import Glibc
import Synchronization

/// The thread that keeps a server's deadlines: waiting answers every 20 ms (5 in a crowd),
/// connections and streams every 200.
///
/// `@unchecked Sendable`: the thread's id is written before the object is shared, and read once, by `stop()`.
final class ClockThread: @unchecked Sendable {
    private let engine: Engine
    private let daemons: [Daemon]
    private let isStopping = Atomic<Bool>(false)
    private var thread = pthread_t()

    init(engine: Engine, daemons: [Daemon]) throws(HTTPServerError) {
        self.engine = engine
        self.daemons = daemons
        let box = unsafe Unmanaged.passRetained(self)
        let result = unsafe pthread_create(&thread, nil, runClock, box.toOpaque())
        guard result == 0 else {
            unsafe box.release()
            throw .daemon
        }
    }

    /// Ends the thread and waits for it.
    func stop() {
        if isStopping.exchange(true, ordering: .relaxed) { return }
        _ = pthread_join(thread, nil)
    }

    fileprivate func run() {
        var next = Monotonic.now
        while !isStopping.load(ordering: .relaxed) {
            var isCrowded = false
            for daemon in daemons where daemon.wakeIfCrowded() { isCrowded = true }
            usleep(isCrowded ? 5_000 : 20_000)
            let now = Monotonic.now
            engine.expireWaiters(now: now)
            if now >= next {
                next = now + 200_000_000
                for daemon in daemons { daemon.expireConnections(now: now) }
                engine.tendStreams(now: now)
            }
        }
    }
}

private func runClock(_ box: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let box = unsafe box else { return nil }
    unsafe Unmanaged<ClockThread>.fromOpaque(box).takeRetainedValue().run()
    return nil
}
