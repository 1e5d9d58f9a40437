internal import CNATS
internal import Foundation
import Changes
import Replicate

/// A replica's end of a JetStream bus.
///
/// `@unchecked Sendable`: the queue is guarded by its condition; `subscribe` is the applier's alone.
package final class JetStreamSubscriber: DeltaSubscriber, @unchecked Sendable {
    private let connection: NATSConnection
    private let subjects: Subjects
    private let queue = MessageQueue()
    private let heartbeats: NATSSubscription
    private let answers: NATSSubscription
    private let inbox: String
    private var batches: NATSSubscription?
    private var seenReconnects: UInt64 = 0

    package init(url: String, pipeline: String, region: String) throws {
        connection = try NATSConnection(url: url, name: "tideline-edge-\(region)")
        subjects = Subjects(pipeline: pipeline)
        let queue = queue
        heartbeats = try unsafe NATSSubscription(connection, subject: subjects.heartbeat) { bytes, _ in
            if let heartbeat = unsafe Heartbeat(decoding: bytes) {
                queue.offer(.heartbeat(heartbeat), bytes: bytes.count)
            }
        }
        var text: UnsafeMutablePointer<CChar>?
        try unsafe NATSError.check("make an inbox", natsInbox_Create(&text))
        inbox = unsafe text.map { unsafe String(cString: $0) } ?? ""
        unsafe natsInbox_Destroy(text)
        answers = try unsafe NATSSubscription(connection, subject: inbox) { bytes, message in
            // The server's word that no relay is there: the replica asks again.
            guard unsafe !natsMsg_IsNoResponders(message) else { return }
            unsafe queue.offer(.batch(Array(bytes), busSequence: 0), bytes: bytes.count)
        }
    }

    package var isConnected: Bool { connection.isConnected }

    package func next(waitMicroseconds: Int) -> BusMessage? {
        let reconnects = connection.reconnectCount
        if reconnects != seenReconnects {
            seenReconnects = reconnects
            return .reconnected
        }
        return queue.take(waitMicroseconds: waitMicroseconds)
    }

    package func request(_ repair: RepairRequest) throws {
        let bytes = repair.encoded()
        try unsafe NATSError.check(
            "ask for a repair",
            natsConnection_PublishRequest(connection.handle, subjects.repair, inbox, bytes, Int32(bytes.count)))
    }

    package func subscribe(after busSequence: UInt64?) throws {
        batches = nil
        let queue = queue
        // A stream that was made anew ends before our place in the old one: it is read from its beginning.
        let start = try busSequence.map { try lastSequence() < $0 ? 0 : $0 }
        batches = unsafe try NATSSubscription(
            connection, stream: subjects.stream, subject: subjects.allChanges, after: start
        ) { bytes, message in
            var metadata: UnsafeMutablePointer<jsMsgMetaData>?
            var sequence: UInt64 = 0
            if unsafe natsMsg_GetMetaData(&metadata, message) == NATS_OK, let metadata = unsafe metadata {
                sequence = unsafe metadata.pointee.Sequence.Stream
                unsafe jsMsgMetaData_Destroy(metadata)
            }
            unsafe queue.offer(.batch(Array(bytes), busSequence: sequence), bytes: bytes.count)
        }
    }

    private func lastSequence() throws(NATSError) -> UInt64 {
        var stream: UnsafeMutablePointer<jsStreamInfo>?
        try unsafe NATSError.check(
            "look at the stream \(subjects.stream)",
            js_GetStreamInfo(&stream, connection.jetStream, subjects.stream, nil, nil))
        defer { unsafe jsStreamInfo_Destroy(stream) }
        return unsafe stream?.pointee.State.LastSeq ?? 0
    }

    package func subscribeFromStart() throws { try subscribe(after: 0) }

    package func close() { queue.close() }
}

/// Messages between the library's threads and the applier: bounded in bytes. When it is full the library's thread
/// waits, the library's own bound fills, and the bus drops: a gap, which the replica repairs.
///
/// `@unchecked Sendable`: guarded by the condition.
private final class MessageQueue: @unchecked Sendable {
    private let condition = NSCondition()
    private var messages: [(message: BusMessage, bytes: Int)?] = []
    private var head = 0
    private var bytes = 0
    private var closed = false
    private static let bytesMax = 32 << 20

    func offer(_ message: BusMessage, bytes count: Int) {
        condition.lock()
        defer { condition.unlock() }
        while bytes > Self.bytesMax, !closed { condition.wait() }
        guard !closed else { return }
        messages.append((message, count))
        bytes += count
        condition.broadcast()
    }

    func take(waitMicroseconds: Int) -> BusMessage? {
        condition.lock()
        defer { condition.unlock() }
        let deadline = Date(timeIntervalSinceNow: Double(waitMicroseconds) / 1_000_000)
        while head == messages.count, !closed, condition.wait(until: deadline) {}
        guard head < messages.count else { return nil }
        guard let (message, count) = messages[head] else { preconditionFailure("what waits was not taken") }
        // Nothing that was taken stays in memory until the array moves up.
        messages[head] = nil
        head += 1
        if head == messages.count || head > 1024 {
            messages.removeFirst(head)
            head = 0
        }
        bytes -= count
        condition.broadcast()
        return message
    }

    func close() {
        condition.lock()
        closed = true
        condition.broadcast()
        condition.unlock()
    }
}
