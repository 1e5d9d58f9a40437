import Glibc
import Synchronization

/// An HTTP/1.1 server: one thread accepts connections, and some read, answer and write, each for its own connections.
///
/// One object is one run: `start()` once, `stop(deadline:)` once. Handlers run on the server's threads and must not
/// block for long; what must wait is deferred.
package final class HTTPServer: Sendable {
    package let configuration: Configuration
    package let metrics: Metrics
    private let engine: Engine
    private let life = Mutex(Life.new)

    private enum Life {
        case new
        case running(acceptor: Acceptor, daemons: [Daemon], clock: ClockThread)
        case stopped
    }

    package init(configuration: Configuration = Configuration(), router: Router, metrics: Metrics = Metrics()) {
        precondition(configuration.threads > 0 && configuration.connectionsMax > 0 && configuration.bodyBytesMax >= 0)
        self.configuration = configuration
        self.metrics = metrics
        engine = Engine(configuration: configuration, router: router, metrics: metrics)
    }

    deinit { stop(deadline: .zero) }

    /// Requests that are being read or answered, and open streams.
    package var requestsInFlight: Int { engine.inFlight.load(ordering: .relaxed) }

    /// Whether `stop` was called: readiness should say no.
    package var isDraining: Bool { engine.draining.load(ordering: .relaxed) }

    /// Binds, listens and starts the threads.
    ///
    /// - Returns: the port that is listened on.
    @discardableResult
    package func start() throws(HTTPServerError) -> UInt16 {
        let isNew = life.withLock { life in
            guard case .new = life else { return false }
            life = .stopped
            return true
        }
        if !isNew { throw .startedBefore }
        let listener = try Listener.open(address: configuration.address, port: configuration.port)
        // The library's threads must not take the process's signals.
        var all = sigset_t()
        var before = sigset_t()
        unsafe sigfillset(&all)
        _ = unsafe pthread_sigmask(SIG_BLOCK, &all, &before)
        defer { _ = unsafe pthread_sigmask(SIG_SETMASK, &before, nil) }
        let port = Listener.port(of: listener)
        var daemons: [Daemon] = []
        var clock: ClockThread?
        do throws(HTTPServerError) {
            for _ in 0..<configuration.threads { daemons.append(try Daemon(engine: engine)) }
            let started = daemons
            let tending = try ClockThread(engine: engine, daemons: started)
            clock = tending
            let acceptor = try Acceptor(engine: engine, listener: listener, daemons: started)
            life.withLock { $0 = .running(acceptor: acceptor, daemons: started, clock: tending) }
        } catch {
            clock?.stop()
            for daemon in daemons { daemon.stop() }
            close(listener)
            throw error
        }
        return port
    }

    /// Stops in order: no new clients, event streams ended, requests in flight finished or, at the deadline, answered
    /// with their fallback; then the threads end. A handler that blocks is waited for.
    package func stop(deadline: Duration = .seconds(5)) {
        let running = life.withLock { life -> (Acceptor, [Daemon], ClockThread)? in
            guard case .running(let acceptor, let daemons, let clock) = life else { return nil }
            life = .stopped
            return (acceptor, daemons, clock)
        }
        guard let (acceptor, daemons, clock) = running else { return }
        engine.draining.store(true, ordering: .releasing)
        acceptor.stop()
        engine.endStreams()
        waitForRequests(until: Monotonic.now + deadline.nanoseconds)
        engine.releaseAll()
        waitForRequests(until: Monotonic.now + min(deadline.nanoseconds, 500_000_000))
        clock.stop()
        for daemon in daemons { daemon.stop() }
    }

    private func waitForRequests(until limit: UInt64) {
        while engine.inFlight.load(ordering: .relaxed) > 0, Monotonic.now < limit { usleep(2_000) }
    }
}
