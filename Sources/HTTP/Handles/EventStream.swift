import CMicroHTTPD
import Glibc
import Synchronization

/// A stream of Server-Sent Events to one client, from any thread.
///
/// What the client has not taken waits in a queue that is bounded in bytes and in events. A client that is too slow is
/// cut off and counted; it comes back with `Last-Event-ID` and is told where it stands. Sending never blocks.
///
/// `@unchecked Sendable`: the state is touched under the lock alone. `MHD_resume_connection` may be called from any
/// thread for a connection that is suspended, and a suspended one is not freed.
package final class EventStream: @unchecked Sendable {
    private let queueBytesMax: Int
    private let queueEventsMax: Int
    private let onClose: (@Sendable () -> Void)?
    private let lock = Mutex(())
    private var state = State()

    @safe private struct State {
        var pending: [UInt8] = []
        var head = 0
        /// Where each event that waits ends, in bytes since the stream began.
        var ends: [UInt64] = []
        var endsHead = 0
        var appended: UInt64 = 0
        var taken: UInt64 = 0
        var isEnding = false
        var isClosed = false
        var connection: Connection?
        var handle: OpaquePointer?
        var isSuspended = false
        var lastSent: UInt64 = 0
        var lastTaken: UInt64 = 0
        var lastProbed: UInt64 = 0
    }

    /// - Parameters:
    ///   - queueBytesMax: the most bytes that may wait for the client.
    ///   - queueEventsMax: the most events that may wait for the client.
    ///   - onClose: called once, on any thread, when the client is gone or the stream has ended.
    package init(
        queueBytesMax: Int = 256 << 10, queueEventsMax: Int = 1024, onClose: (@Sendable () -> Void)? = nil
    ) {
        self.queueBytesMax = queueBytesMax
        self.queueEventsMax = queueEventsMax
        self.onClose = onClose
    }

    /// Queues one event; lines of `data` are split as the format wants.
    ///
    /// - Returns: false when the stream is closed, ending, or was just cut off because the client is too slow.
    @discardableResult
    package func send(event: String? = nil, id: String? = nil, data: String) -> Bool {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(data.utf8.count + 64)
        if let event { Self.append("event: ", field: event, to: &bytes) }
        if let id { Self.append("id: ", field: id, to: &bytes) }
        Self.append(data: Array(data.utf8), to: &bytes)
        return push(bytes)
    }

    /// Queues one event whose data is given as bytes.
    @discardableResult
    package func send(event: String? = nil, id: String? = nil, data: [UInt8]) -> Bool {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(data.count + 64)
        if let event { Self.append("event: ", field: event, to: &bytes) }
        if let id { Self.append("id: ", field: id, to: &bytes) }
        Self.append(data: data, to: &bytes)
        return push(bytes)
    }

    /// Ends the stream after what is queued; the connection is closed properly.
    package func end() {
        withState { state in
            state.isEnding = true
            resume(&state)
        }
    }

    /// Whether nothing sent from now on can arrive.
    package var isClosed: Bool { withState { $0.isClosed || $0.isEnding } }

    /// The bytes that wait for the client.
    package var queuedBytes: Int { withState { $0.pending.count - $0.head } }

    // MARK: The server's side

    /// Takes the connection; false when the stream was opened or ended before.
    func open(_ connection: Connection, _ handle: OpaquePointer) -> Bool {
        withState { state in
            if state.isClosed || state.connection != nil { return false }
            state.connection = connection
            unsafe state.handle = unsafe handle
            state.lastSent = Monotonic.now
            state.lastTaken = state.lastSent
            return true
        }
    }

    /// Fills the library's buffer, or suspends the connection until there is something; −1 at the end.
    func read(into buffer: UnsafeMutableRawBufferPointer) -> Int {
        withState { state in
            let waiting = state.pending.count - state.head
            if waiting == 0 {
                if state.isEnding { return -1 }
                guard let handle = unsafe state.handle else { return -1 }
                unsafe MHD_suspend_connection(handle)
                state.isSuspended = true
                return 0
            }
            let count = min(waiting, buffer.count)
            unsafe state.pending.withUnsafeBytes { bytes in
                unsafe buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[state.head..<state.head + count]))
            }
            state.head += count
            state.taken += UInt64(count)
            state.lastTaken = Monotonic.now
            while state.endsHead < state.ends.count, state.ends[state.endsHead] <= state.taken { state.endsHead += 1 }
            compact(&state)
            return count
        }
    }

    /// Every so often: a comment where nothing was sent, and a look at whether the client is still there.
    func tend(now: UInt64) {
        let (connection, probe, stalled) = withState { state -> (Connection?, Bool, Bool) in
            guard let connection = state.connection, !state.isClosed else { return (nil, false, false) }
            let interval = connection.engine.configuration.heartbeatInterval.nanoseconds
            let waits = state.pending.count > state.head
            if !state.isEnding, !waits, now > state.lastSent, now - state.lastSent >= interval {
                append(Array(":\n\n".utf8), &state)
                resume(&state)
            }
            let limit = connection.engine.configuration.answerDeadline.nanoseconds
            let isStalled = waits && Self.isSilent(since: max(state.lastTaken, state.lastSent), now: now, for: limit)
            let isDue = state.isSuspended && now > state.lastProbed + 1_000_000_000
            if isDue { state.lastProbed = now }
            return (connection, isDue, isStalled)
        }
        guard let connection else { return }
        if stalled {
            cutOff()
        } else if probe, connection.isPeerGone {
            end()
        }
    }

    /// The library has let go of the stream.
    func closed() {
        let connection = withState { state -> Connection? in
            defer {
                state.isClosed = true
                state.connection = nil
                unsafe state.handle = nil
                state.pending = []
                state.head = 0
            }
            return state.connection
        }
        connection?.engine.remove(self)
        onClose?()
    }

    /// Whether `limit` has passed since a moment, which may lie after `now`: the clock is read before the lock is taken,
    /// and another thread may send in between. All in nanoseconds.
    package static func isSilent(since: UInt64, now: UInt64, for limit: UInt64) -> Bool {
        now > since && now - since >= limit
    }

    // MARK: Private

    private func withState<R>(_ body: (inout State) -> R) -> R {
        lock.withLock { _ in body(&state) }
    }

    private func push(_ bytes: [UInt8]) -> Bool {
        let isTooMuch = withState { state -> Bool? in
            if state.isClosed || state.isEnding { return nil }
            let waiting = state.pending.count - state.head
            if waiting + bytes.count > queueBytesMax || state.ends.count - state.endsHead >= queueEventsMax {
                return true
            }
            append(bytes, &state)
            resume(&state)
            return false
        }
        if isTooMuch == true { cutOff() }
        return isTooMuch == false
    }

    private func append(_ bytes: [UInt8], _ state: inout State) {
        state.pending.append(contentsOf: bytes)
        state.appended += UInt64(bytes.count)
        state.ends.append(state.appended)
        state.lastSent = Monotonic.now
    }

    private func compact(_ state: inout State) {
        if state.head == state.pending.count {
            state.pending.removeAll(keepingCapacity: true)
            state.head = 0
            state.ends.removeAll(keepingCapacity: true)
            state.endsHead = 0
        } else if state.head > 64 << 10 {
            state.pending.removeFirst(state.head)
            state.head = 0
            state.ends.removeFirst(state.endsHead)
            state.endsHead = 0
        }
    }

    private func resume(_ state: inout State) {
        guard state.isSuspended, let handle = unsafe state.handle else { return }
        state.isSuspended = false
        unsafe MHD_resume_connection(handle)
    }

    /// Ends the stream at once: the client doesn't take what it asked for.
    private func cutOff() {
        let connection = withState { state -> Connection? in
            if state.isEnding { return nil }
            state.isEnding = true
            state.pending = []
            state.head = 0
            resume(&state)
            return state.connection
        }
        guard let connection else { return }
        connection.engine.counts.slowStreams.increment()
        connection.deadline.store(1, ordering: .relaxed)
    }

    private static func append(_ name: StaticString, field: String, to bytes: inout [UInt8]) {
        bytes.append(text: name)
        for byte in field.utf8 { bytes.append(byte == 0x0A || byte == 0x0D || byte == 0 ? 0x20 : byte) }
        bytes.append(0x0A)
    }

    private static func append(data: [UInt8], to bytes: inout [UInt8]) {
        bytes.append(text: "data: ")
        var index = 0
        while index < data.count {
            let byte = data[index]
            if byte == 0x0D || byte == 0x0A {
                if byte == 0x0D, index + 1 < data.count, data[index + 1] == 0x0A { index += 1 }
                bytes.append(text: "\ndata: ")
            } else {
                bytes.append(byte)
            }
            index += 1
        }
        bytes.append(text: "\n\n")
    }
}
