import CMicroHTTPD
import Glibc
import Synchronization

/// The thread that accepts connections and gives each to the daemon that has the fewest.
///
/// With a socket for each daemon on the one port (`SO_REUSEPORT`) the kernel spreads connections by a hash: of eight that a
/// gateway keeps open, six are often one thread's, and their requests wait for each other.
///
/// `@unchecked Sendable`: the thread's id is written before the object is shared, and read once, by `stop()`.
@safe final class Acceptor: @unchecked Sendable {
    private let engine: Engine
    private let listener: Int32
    private let daemons: [Daemon]
    private let isStopping = Atomic<Bool>(false)
    private var thread = pthread_t()

    /// - Parameter listener: belongs to the acceptor once it is made.
    init(engine: Engine, listener: Int32, daemons: [Daemon]) throws(HTTPServerError) {
        self.engine = engine
        self.listener = listener
        self.daemons = daemons
        let box = unsafe Unmanaged.passRetained(self)
        let result = unsafe pthread_create(&thread, nil, runAcceptor, box.toOpaque())
        guard result == 0 else {
            unsafe box.release()
            throw .daemon
        }
    }

    /// Accepts no more: new clients are refused by the kernel.
    func stop() {
        if isStopping.exchange(true, ordering: .releasing) { return }
        shutdown(listener, Int32(SHUT_RD))
        _ = pthread_join(thread, nil)
        close(listener)
    }

    fileprivate func run() {
        var address = sockaddr_storage()
        unsafe withUnsafeMutableBytes(of: &address) { bytes in
            guard let address = unsafe bytes.baseAddress?.assumingMemoryBound(to: sockaddr.self) else { return }
            while true {
                var size = socklen_t(bytes.count)
                let descriptor = unsafe tl_accept(listener, address, &size)
                let code = errno
                if isStopping.load(ordering: .acquiring) {
                    if descriptor >= 0 { close(descriptor) }
                    return
                }
                if descriptor >= 0 {
                    unsafe place(descriptor, address, size)
                } else if code != EINTR, code != ECONNABORTED {
                    // No descriptors or no memory: the client waits in the kernel's queue until there are.
                    usleep(10_000)
                }
            }
        }
    }

    private func place(_ descriptor: Int32, _ address: UnsafePointer<sockaddr>, _ size: socklen_t) {
        let open = daemons.reduce(0) { $0 + $1.load }
        guard open < engine.configuration.connectionsMax + Daemon.reserve,
            let daemon = daemons.min(by: { $0.load < $1.load })
        else {
            engine.counts.refuse(.connections)
            close(descriptor)
            return
        }
        unsafe daemon.take(descriptor, address, size)
    }
}

private func runAcceptor(_ box: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let box = unsafe box else { return nil }
    unsafe Unmanaged<Acceptor>.fromOpaque(box).takeRetainedValue().run()
    return nil
}
