internal import CNATS

/// A subscription whose messages go to a receiver on one of the library's threads.
///
/// `@unchecked Sendable`: the handle is used by `init` and `deinit` alone.
@safe final class NATSSubscription: @unchecked Sendable {
    typealias Receiver = @Sendable (_ bytes: UnsafeRawBufferPointer, _ message: OpaquePointer) -> Void

    @safe private final class Box: Sendable {
        let receive: Receiver
        init(_ receive: @escaping Receiver) { unsafe self.receive = unsafe receive }
    }

    private let handle: OpaquePointer
    private let connection: NATSConnection
    private let closure: UnsafeMutableRawPointer

    /// Subscribes on the core protocol; members of a `queue` share the messages.
    convenience init(
        _ connection: NATSConnection, subject: String, queue: String? = nil, _ receive: @escaping Receiver
    ) throws(NATSError) {
        unsafe try self.init(connection, "subscribe to \(subject)", pendingBytesMax: 16 << 20, unsafe receive) {
            subscription, closure in
            if let queue {
                unsafe natsConnection_QueueSubscribe(&subscription, connection.handle, subject, queue, deliver, closure)
            } else {
                unsafe natsConnection_Subscribe(&subscription, connection.handle, subject, deliver, closure)
            }
        }
    }

    /// Subscribes to a stream by an ephemeral consumer of our own, from a position or only to what is new.
    ///
    /// It is not an "ordered consumer": those have been seen not to come back (nats.c#2063). Positions are ours.
    convenience init(
        _ connection: NATSConnection, stream: String, subject: String, after sequence: UInt64?,
        _ receive: @escaping Receiver
    ) throws(NATSError) {
        // More than the 32 MB that the server has under way at most before it waits for us (flow control).
        unsafe try self.init(connection, "consume \(stream)", pendingBytesMax: 48 << 20, unsafe receive) {
            subscription, closure in
            unsafe stream.withCString { name in
                var options = unsafe jsSubOptions()
                unsafe jsSubOptions_Init(&options)
                unsafe options.Stream = unsafe name
                unsafe options.ManualAck = true
                unsafe options.Config.AckPolicy = js_AckNone
                unsafe options.Config.MaxDeliver = 1
                // It ends with its server. One on the server's disk would live on there, as it stood some seconds before a
                // crash, and send again what we have.
                unsafe options.Config.MemoryStorage = true
                unsafe options.Config.FlowControl = true
                unsafe options.Config.Heartbeat = 1_000_000_000
                unsafe options.Config.DeliverPolicy = sequence == nil ? js_DeliverNew : js_DeliverByStartSequence
                unsafe options.Config.OptStartSeq = (sequence ?? 0) + 1
                var code = jsErrCode(rawValue: 0)
                return unsafe js_Subscribe(
                    &subscription, connection.jetStream, subject, deliver, closure, nil, &options, &code)
            }
        }
    }

    private init(
        _ connection: NATSConnection, _ operation: String, pendingBytesMax: Int, _ receive: @escaping Receiver,
        _ subscribe: (inout OpaquePointer?, UnsafeMutableRawPointer) -> natsStatus
    ) throws(NATSError) {
        let closure = unsafe Unmanaged.passRetained(Box(receive)).toOpaque()
        var subscription: OpaquePointer?
        let status = unsafe subscribe(&subscription, closure)
        guard status == NATS_OK, let subscription = unsafe subscription else {
            unsafe Unmanaged<Box>.fromOpaque(closure).release()
            throw NATSError(operation, status)
        }
        unsafe handle = unsafe subscription
        self.connection = connection
        unsafe self.closure = unsafe closure
        // What waits in the library is bounded; beyond it the bus drops, and a replica sees a gap.
        unsafe natsSubscription_SetPendingLimits(handle, 65_536, Int32(pendingBytesMax))
        unsafe natsSubscription_SetOnCompleteCB(handle, { closure in unsafe release(closure) }, unsafe closure)
    }

    deinit {
        unsafe natsSubscription_Unsubscribe(handle)
        unsafe natsSubscription_Destroy(handle)
    }

    private static func box(_ closure: UnsafeMutableRawPointer) -> Receiver {
        unsafe Unmanaged<Box>.fromOpaque(closure).takeUnretainedValue().receive
    }

    fileprivate static func receive(_ message: OpaquePointer, _ closure: UnsafeMutableRawPointer) {
        let data = unsafe natsMsg_GetData(message)
        let count = unsafe Int(natsMsg_GetDataLength(message))
        unsafe box(closure)(UnsafeRawBufferPointer(start: data, count: data == nil ? 0 : count), message)
    }

    fileprivate static func releaseBox(_ closure: UnsafeMutableRawPointer) {
        unsafe Unmanaged<Box>.fromOpaque(closure).release()
    }
}

private let deliver: natsMsgHandler = { _, _, message, closure in
    guard let message = unsafe message else { return }
    defer { unsafe natsMsg_Destroy(message) }
    guard let closure = unsafe closure else { return }
    unsafe NATSSubscription.receive(message, closure)
}

private func release(_ closure: UnsafeMutableRawPointer?) {
    guard let closure = unsafe closure else { return }
    unsafe NATSSubscription.releaseBox(closure)
}
