import Synchronization

/// What all threads of a server share.
final class Engine: Sendable {
    let configuration: HTTPServer.Configuration
    let router: Router
    let counts: ServerMetrics
    let openConnections = Atomic<Int>(0)
    /// Requests whose header is complete and whose answer is not yet sent; open streams among them.
    let inFlight = Atomic<Int>(0)
    let draining = Atomic<Bool>(false)
    private let waiting = Mutex(Waiting())

    private struct Waiting {
        var isStopping = false
        var waiters: [Waiter] = []
        var streams: [ObjectIdentifier: EventStream] = [:]
    }

    init(configuration: HTTPServer.Configuration, router: Router, metrics: Metrics) {
        self.configuration = configuration
        self.router = router
        counts = ServerMetrics(metrics, routes: router.routes.map { "\($0.method.name) \($0.pattern)" })
    }

    // MARK: Waiting answers and streams

    /// Takes a waiter in; false when the server stops or too many wait.
    func add(_ waiter: Waiter) -> Bool {
        waiting.withLock { waiting in
            if waiting.isStopping || waiting.waiters.count >= configuration.deferredMax { return false }
            waiting.waiters.append(waiter)
            return true
        }
    }

    /// Takes a stream in; false when the server drains or too many are open.
    func add(_ stream: EventStream) -> Bool {
        waiting.withLock { waiting in
            if waiting.isStopping || draining.load(ordering: .acquiring) { return false }
            if waiting.streams.count >= configuration.streamsMax { return false }
            waiting.streams[ObjectIdentifier(stream)] = stream
            counts.streams.set(Double(waiting.streams.count))
            return true
        }
    }

    func remove(_ stream: EventStream) {
        waiting.withLock { waiting in
            waiting.streams[ObjectIdentifier(stream)] = nil
            counts.streams.set(Double(waiting.streams.count))
        }
    }

    func endStreams() {
        let streams = waiting.withLock { Array($0.streams.values) }
        for stream in streams { stream.end() }
    }

    /// From here on nothing is suspended any more, and what was is resumed.
    func releaseAll() {
        let (waiters, streams) = waiting.withLock { waiting in
            waiting.isStopping = true
            defer { waiting.waiters = [] }
            return (waiting.waiters, Array(waiting.streams.values))
        }
        for waiter in waiters { waiter.answer(with: waiter.fallback) }
        for stream in streams { stream.end() }
    }

    /// Answers the waiters whose time is up, and forgets those that were answered.
    func expireWaiters(now: UInt64) {
        let waiters = waiting.withLock { waiting in
            waiting.waiters.removeAll { $0.isAnswered }
            return waiting.waiters
        }
        for waiter in waiters where waiter.deadline <= now {
            if waiter.answer(with: waiter.fallback) { counts.deferredTimeouts.increment() }
        }
    }

    func tendStreams(now: UInt64) {
        let streams = waiting.withLock { Array($0.streams.values) }
        for stream in streams { stream.tend(now: now) }
    }
}
