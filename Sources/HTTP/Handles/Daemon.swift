import CMicroHTTPD
import Glibc
import Synchronization

/// One libmicrohttpd daemon: a thread with its own epoll. Its connections come from the acceptor.
///
/// `@unchecked Sendable`: `MHD_add_connection` may be called from any thread, and `MHD_stop_daemon` from any but the
/// daemon's own, once and last; the server does so in order.
@safe final class Daemon: @unchecked Sendable {
    /// Connections beyond the limit that are let in to be told so.
    static let reserve = 64
    /// From so many connections on the thread is woken every few milliseconds (see `Alarm`).
    private static let alarmFrom = 96

    let engine: Engine
    private var handle: OpaquePointer?
    private let alarm: Alarm
    private let connections = Mutex<[ObjectIdentifier: Connection]>([:])
    private let taken = Atomic<Int>(0)

    init(engine: Engine) throws(HTTPServerError) {
        self.engine = engine
        alarm = try Alarm()
        let configuration = engine.configuration
        var setup = unsafe tl_mhd_setup()
        unsafe setup.connection_limit = UInt32(configuration.connectionsMax + Self.reserve + 16)
        unsafe setup.idle_seconds = UInt32(max(1, configuration.idleTimeout.components.seconds))
        // The library clears this much for each request: no more than header, its index and an answer's header need.
        unsafe setup.memory_limit = 2 * configuration.headerBytesMax + (8 << 10)
        unsafe setup.cls = Unmanaged.passUnretained(self).toOpaque()
        unsafe setup.access = requestRead
        unsafe setup.completed = requestCompleted
        unsafe setup.notify = connectionChanged
        unsafe setup.uri = requestLineRead
        unsafe handle = unsafe tl_mhd_start(&setup)
        guard let handle = unsafe handle else { throw .daemon }
        if unsafe !tl_mhd_wake_by(handle, alarm.descriptor) {
            unsafe MHD_stop_daemon(handle)
            throw .daemon
        }
    }

    static func from(_ cls: UnsafeMutableRawPointer?) -> Daemon? {
        guard let cls = unsafe cls else { return nil }
        return unsafe Unmanaged<Daemon>.fromOpaque(cls).takeUnretainedValue()
    }

    // MARK: Connections

    /// Connections that were given to it and are not closed yet.
    var load: Int { taken.load(ordering: .relaxed) }

    /// Takes a connection over from the acceptor; the library closes what it has no room for.
    func take(_ descriptor: Int32, _ address: UnsafePointer<sockaddr>, _ size: socklen_t) {
        taken.wrappingAdd(1, ordering: .relaxed)
        guard unsafe MHD_add_connection(handle, descriptor, address, size) == .YES else {
            taken.wrappingSubtract(1, ordering: .relaxed)
            engine.counts.refuse(.connections)
            return
        }
    }

    func add(_ connection: Connection) {
        let open = engine.openConnections.wrappingAdd(1, ordering: .relaxed).newValue
        engine.counts.connections.add(1)
        connections.withLock { connections in
            connections[ObjectIdentifier(connection)] = connection
        }
        if open > engine.configuration.connectionsMax {
            engine.counts.refuse(.connections)
            connection.deadline.store(Monotonic.now + 2_000_000_000, ordering: .relaxed)
            connection.refuse(503, "the server has as many connections as it takes")
        }
    }

    func remove(_ connection: Connection) {
        connections.withLock { connections in
            _ = connections.removeValue(forKey: ObjectIdentifier(connection))
        }
        taken.wrappingSubtract(1, ordering: .relaxed)
        engine.openConnections.wrappingSubtract(1, ordering: .relaxed)
        engine.counts.connections.add(-1)
    }

    /// Wakes the thread if it has so many connections that it may wait in vain; whether it has.
    func wakeIfCrowded() -> Bool {
        let isCrowded = connections.withLock { $0.count } >= Self.alarmFrom
        if isCrowded { alarm.ring() }
        return isCrowded
    }

    /// Closes the connections whose deadline has passed.
    func expireConnections(now: UInt64) {
        let expired = connections.withLock { connections in
            connections.values.reduce(0) { $0 + ($1.expire(now: now) ? 1 : 0) }
        }
        for _ in 0..<expired { engine.counts.refuse(.deadline) }
    }

    /// Runs `body` while the connection's socket is certain to be open; nil when it is closed already.
    func withOpen<R>(_ connection: Connection, _ body: (Int32) -> R) -> R? {
        connections.withLock { connections in
            connections[ObjectIdentifier(connection)] == nil ? nil : body(connection.descriptor)
        }
    }

    // MARK: Stopping

    /// Ends the thread; nothing may be suspended.
    func stop() {
        guard let handle = unsafe handle else { return }
        unsafe MHD_stop_daemon(handle)
        unsafe self.handle = nil
    }
}
