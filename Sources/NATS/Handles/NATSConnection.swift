internal import CNATS
internal import Foundation
internal import Synchronization

/// One connection, which reconnects for ever by itself, and its JetStream context.
///
/// `@unchecked Sendable`: "natsConnection … can be used by multiple threads" (nats.h); the rest is atomic.
@safe final class NATSConnection: @unchecked Sendable {
    let handle: OpaquePointer
    let jetStream: OpaquePointer
    private let reconnects = Atomic<UInt64>(0)
    private let failedPublishes = Atomic<UInt64>(0)

    var reconnectCount: UInt64 { reconnects.load(ordering: .relaxed) }
    /// Publishes that the server did not acknowledge: replicas that miss them ask for a repair.
    var failedPublishCount: UInt64 { failedPublishes.load(ordering: .relaxed) }
    var isConnected: Bool { unsafe natsConnection_Status(handle) == NATS_CONN_STATUS_CONNECTED }

    /// The longest message that the server takes, as it said when the connection was made.
    var payloadBytesMax: Int { unsafe Int(natsConnection_GetMaxPayload(handle)) }

    /// Connects, or goes on trying in the background where the server is not there yet.
    init(url: String, name: String) throws(NATSError) {
        var options: OpaquePointer?
        try unsafe NATSError.check("options", natsOptions_Create(&options))
        defer { unsafe natsOptions_Destroy(options) }
        unsafe natsOptions_SetURL(options, url)
        unsafe natsOptions_SetName(options, name)
        unsafe natsOptions_SetMaxReconnect(options, -1)
        unsafe natsOptions_SetReconnectWait(options, 200)
        unsafe natsOptions_SetReconnectJitter(options, 50, 50)
        unsafe natsOptions_SetTimeout(options, 2000)
        unsafe natsOptions_SetPingInterval(options, 2000)
        unsafe natsOptions_SetMaxPingsOut(options, 2)
        // While the server is away nothing piles up: the relay waits, and replicas repair.
        unsafe natsOptions_SetReconnectBufSize(options, 1 << 20)
        unsafe natsOptions_SetSendAsap(options, true)
        let box = NATSConnectionBox()
        unsafe natsOptions_SetReconnectedCB(options, { _, closure in unsafe reconnected(closure) }, unsafe box.pointer)
        unsafe natsOptions_SetErrorHandler(options, { _, _, _, _ in }, nil)
        unsafe natsOptions_SetRetryOnFailedConnect(
            options, true, { _, closure in unsafe reconnected(closure) }, unsafe box.pointer)
        var connection: OpaquePointer?
        let status = unsafe natsConnection_Connect(&connection, options)
        guard status == NATS_OK || status == NATS_NOT_YET_CONNECTED, let connection = unsafe connection else {
            box.release()
            throw NATSError("connect to \(url)", status)
        }
        unsafe handle = unsafe connection
        var jsOptionsValue = unsafe jsOptions()
        unsafe jsOptions_Init(&jsOptionsValue)
        unsafe jsOptionsValue.Wait = 2000
        unsafe jsOptionsValue.PublishAsync.MaxPending = 256
        unsafe jsOptionsValue.PublishAsync.StallWait = 1
        unsafe jsOptionsValue.PublishAsync.ErrHandler = { _, _, closure in unsafe publishFailed(closure) }
        unsafe jsOptionsValue.PublishAsync.ErrHandlerClosure = unsafe box.pointer
        var context: OpaquePointer?
        try unsafe NATSError.check("jetstream", natsConnection_JetStream(&context, connection, &jsOptionsValue))
        guard let context = unsafe context else { throw NATSError("jetstream", NATS_ERR) }
        unsafe jetStream = unsafe context
        self.box = box
        box.connection = self
    }

    private let box: NATSConnectionBox

    deinit {
        box.connection = nil
        unsafe jsCtx_Destroy(jetStream)
        unsafe natsConnection_Close(handle)
        unsafe natsConnection_Destroy(handle)
        // The library's threads are done with the closure now.
        box.release()
    }

    fileprivate func didReconnect() { reconnects.add(1, ordering: .relaxed) }
    fileprivate func didFailPublish() { failedPublishes.add(1, ordering: .relaxed) }

    func flush() { unsafe natsConnection_FlushTimeout(handle, 1000) }
}

/// What the library's callbacks hold: it outlives them, and forgets the connection when that goes.
///
/// `@unchecked Sendable`: guarded by the lock.
@safe final class NATSConnectionBox: @unchecked Sendable {
    private let lock = NSLock()
    private weak var held: NATSConnection?

    var connection: NATSConnection? {
        get { lock.withLock { held } }
        set { lock.withLock { held = newValue } }
    }

    lazy var pointer: UnsafeMutableRawPointer = unsafe Unmanaged.passRetained(self).toOpaque()

    func release() { unsafe Unmanaged<NATSConnectionBox>.fromOpaque(pointer).release() }
}

private func reconnected(_ closure: UnsafeMutableRawPointer?) {
    guard let closure = unsafe closure else { return }
    unsafe Unmanaged<NATSConnectionBox>.fromOpaque(closure).takeUnretainedValue().connection?.didReconnect()
}

private func publishFailed(_ closure: UnsafeMutableRawPointer?) {
    guard let closure = unsafe closure else { return }
    unsafe Unmanaged<NATSConnectionBox>.fromOpaque(closure).takeUnretainedValue().connection?.didFailPublish()
}
