internal import CNATS
internal import Foundation
internal import Synchronization
import Changes
import Replicate
import Service

/// A relay's end of a JetStream bus.
package final class JetStreamPublisher: DeltaPublisher, Sendable {
    private let connection: NATSConnection
    private let subjects: Subjects
    private let repairs = RepairQueue()
    private let subscription: NATSSubscription
    private let log: Log
    /// How the connection stood when the stream was last known to be there, and when that was last asked.
    private let known = Mutex(Known())
    private let configuration: StreamConfiguration

    private struct Known {
        var isThere = false
        var reconnects: UInt64 = 0
        var failures: UInt64 = 0
        var askedAt: Int64 = 0
    }

    /// What the stream keeps: enough for a replica to come back from a short interruption by itself.
    package struct StreamConfiguration: Sendable {
        package var bytesMax: Int64 = 1 << 30
        package var ageSecondsMax: Int64 = 3600

        package init() {}
    }

    package init(url: String, pipeline: String, log: Log, stream: StreamConfiguration = .init()) throws {
        let connection = try NATSConnection(url: url, name: "tideline-relay")
        self.connection = connection
        subjects = Subjects(pipeline: pipeline)
        self.log = log
        configuration = stream
        let repairs = repairs
        subscription = try unsafe NATSSubscription(connection, subject: subjects.repair, queue: "relays") {
            bytes, message in
            guard let request = unsafe RepairRequest(decoding: bytes), let reply = unsafe natsMsg_GetReply(message)
            else { return }
            let inbox = unsafe String(cString: reply)
            unsafe repairs.offer(
                PendingRepair(request: request) { encoded in
                    try unsafe NATSError.check(
                        "answer a repair",
                        natsConnection_Publish(connection.handle, inbox, encoded.baseAddress, Int32(encoded.count)))
                })
        }
        // The server knows of the subscription before anybody is told that this relay is there.
        if connection.isConnected { connection.flush() }
    }

    /// Connected, and the stream is there.
    package var isConnected: Bool {
        guard connection.isConnected else { return false }
        // A server that came back may have lost its store, and publishes that fail may say that the stream was deleted.
        let (reconnects, failures, now) = (connection.reconnectCount, connection.failedPublishCount, SystemClock().now)
        let isThere: Bool? = known.withLock { known in
            if known.isThere, known.reconnects == reconnects, known.failures == failures { return true }
            guard now - known.askedAt > Self.askMicroseconds || known.reconnects != reconnects else {
                return known.isThere
            }
            known = Known(isThere: false, reconnects: reconnects, failures: failures, askedAt: now)
            return nil
        }
        if let isThere { return isThere }
        do {
            try makeStream()
            known.withLock { $0.isThere = true }
            let limit = connection.payloadBytesMax
            if limit < ChangeBatch.encodedBytesMax {
                let error = BatchTooLarge(bytes: ChangeBatch.encodedBytesMax, limit: limit)
                log.warning("the largest batches will not be sent", ["because": error.description])
            }
            return true
        } catch {
            log.warning("the stream cannot be made yet", ["error": "\(error)"])
            return false
        }
    }

    private static let askMicroseconds: Int64 = 1_000_000

    package var failedPublishCount: UInt64 { connection.failedPublishCount }

    private func makeStream() throws(NATSError) {
        let status: natsStatus = unsafe subjects.stream.withCString { name in
            unsafe subjects.allChanges.withCString { subject in
                var list: [UnsafePointer<CChar>?] = unsafe [subject]
                return unsafe list.withUnsafeMutableBufferPointer { list in
                    var stream = unsafe jsStreamConfig()
                    unsafe jsStreamConfig_Init(&stream)
                    unsafe stream.Name = unsafe name
                    unsafe stream.Subjects = list.baseAddress
                    unsafe stream.SubjectsLen = 1
                    unsafe stream.Storage = js_FileStorage
                    unsafe stream.Discard = js_DiscardOld
                    unsafe stream.MaxBytes = configuration.bytesMax
                    unsafe stream.MaxAge = configuration.ageSecondsMax * 1_000_000_000
                    unsafe stream.Duplicates = 120_000_000_000
                    var code = jsErrCode(rawValue: 0)
                    return unsafe js_AddStream(nil, connection.jetStream, &stream, nil, &code)
                }
            }
        }
        try NATSError.check("make the stream \(subjects.stream)", status)
    }

    package func publish(_ encoded: UnsafeRawBufferPointer, partition: UInt32, messageId: String) throws -> Bool {
        guard connection.isConnected else { return false }
        let status: natsStatus = unsafe messageId.withCString { id in
            var options = unsafe jsPubOptions()
            unsafe jsPubOptions_Init(&options)
            unsafe options.MsgId = unsafe id
            return unsafe js_PublishAsync(
                connection.jetStream, subjects.changes(partition), encoded.baseAddress, Int32(encoded.count), &options)
        }
        switch status {
        case NATS_OK: return true
        // The window is full, or the connection has just gone: the relay comes back to this batch.
        case NATS_TIMEOUT, NATS_INSUFFICIENT_BUFFER, NATS_CONNECTION_DISCONNECTED: return false
        case NATS_MAX_PAYLOAD: throw BatchTooLarge(bytes: encoded.count, limit: connection.payloadBytesMax)
        default: throw NATSError("publish a batch", status)
        }
    }

    package func lastPublished(partition: UInt32) throws -> (lineage: Lineage, seq: UInt64)? {
        var message: OpaquePointer?
        var code = jsErrCode(rawValue: 0)
        let status = unsafe js_GetLastMsg(
            &message, connection.jetStream, subjects.stream, subjects.changes(partition), nil, &code)
        if status == NATS_NOT_FOUND { return nil }
        try NATSError.check("read the stream's end", status)
        defer { unsafe natsMsg_Destroy(message) }
        let bytes = unsafe UnsafeRawBufferPointer(
            start: natsMsg_GetData(message), count: Int(natsMsg_GetDataLength(message)))
        // Bytes that are no batch of ours say nothing.
        guard let batch = try? unsafe ChangeBatch(decoding: bytes) else { return nil }
        return (batch.header.lineage, batch.header.seq)
    }

    package func publish(_ heartbeat: Heartbeat) throws {
        let bytes = heartbeat.encoded()
        try unsafe NATSError.check(
            "publish a heartbeat",
            natsConnection_Publish(connection.handle, subjects.heartbeat, bytes, Int32(bytes.count)))
    }

    package func nextRepair() -> PendingRepair? { repairs.take() }

    /// Waits for what is on its way, before a planned stop.
    package func close() {
        var options = unsafe jsPubOptions()
        unsafe jsPubOptions_Init(&options)
        unsafe options.MaxWait = 2000
        unsafe js_PublishAsyncComplete(connection.jetStream, &options)
        connection.flush()
    }
}

/// Requests that wait for the relay's thread: bounded, the newest is dropped, since a replica asks again.
///
/// `@unchecked Sendable`: guarded by the lock.
private final class RepairQueue: @unchecked Sendable {
    private let lock = NSLock()
    private var waiting: [PendingRepair] = []

    func offer(_ repair: PendingRepair) { lock.withLock { if waiting.count < 256 { waiting.append(repair) } } }

    func take() -> PendingRepair? { lock.withLock { waiting.isEmpty ? nil : waiting.removeFirst() } }
}

/// The server takes no message as large as a batch may be.
package struct BatchTooLarge: Error, CustomStringConvertible, Equatable {
    package let bytes: Int
    package let limit: Int

    package var description: String {
        "a batch of \(bytes) bytes is more than nats-server takes, \(limit): set `max_payload: 2MB` or more in its settings"
    }
}
