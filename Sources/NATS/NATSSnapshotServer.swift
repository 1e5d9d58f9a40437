internal import CNATS
internal import Foundation
internal import Synchronization
import Replicate
import Service

/// Announces a store's newest snapshot on the bus, and answers requests for it and its files.
///
/// Core NATS, request and reply: nothing is kept by the bus. Several servers share the requests (a queue group). The
/// library's thread puts requests into a bounded queue and reads no file: that is what `step` is for.
package final class NATSSnapshotServer: Sendable {
    /// Between two announcements of the same snapshot.
    private static let announceMicroseconds: Int64 = 2_000_000

    private let connection: NATSConnection
    private let subjects: Subjects
    private let server: SnapshotServer
    private let log: Log
    private let requests: SnapshotRequestQueue
    private let subscriptions: [NATSSubscription]
    private let nextAnnouncement = Mutex<Int64>(0)
    private let unsent = LogLimiter()
    private let unread = LogLimiter()

    package init(url: String, pipeline: String, store: SnapshotStore, log: Log) throws {
        let connection = try NATSConnection(url: url, name: "tideline-snapshots")
        let subjects = Subjects(pipeline: pipeline)
        let requests = SnapshotRequestQueue()
        self.connection = connection
        self.subjects = subjects
        self.requests = requests
        self.log = log
        server = SnapshotServer(store)
        subscriptions = try subjects.allSnapshotRequests.map { subject in
            try unsafe NATSSubscription(connection, subject: subject, queue: "snapshots") { bytes, message in
                guard let request = unsafe SnapshotRequest(decoding: bytes),
                    let reply = unsafe natsMsg_GetReply(message)
                else { return }
                unsafe requests.offer(request, inbox: String(cString: reply))
            }
        }
        // The server knows of the subscriptions before anybody is told that this one is there.
        if connection.isConnected { connection.flush() }
    }

    package var isConnected: Bool { connection.isConnected }

    /// Requests that wait for a thread in `step`.
    package var waitingCount: Int { requests.count }

    /// Serves one request, waiting for it at most so long, and announces what is due. Returns whether there was one.
    ///
    /// Any number of threads may call it. What cannot be sent is asked for again; it is logged at a bounded rate.
    @discardableResult
    package func step(waitMicroseconds: Int) -> Bool {
        if isAnnouncementDue() { announce() }
        guard let (request, inbox) = requests.take(waitMicroseconds: waitMicroseconds) else { return false }
        let answer = server.answer(request)
        if case .refused(let refusal) = answer {
            unread.limited(now: monotonicMicroseconds()) { suppressed in
                log.warning(
                    "a request for a snapshot was refused",
                    ["reason": refusal.reason.rawValue, "error": refusal.detail, "suppressed": suppressed])
            }
        }
        publish(answer.encoded(), to: inbox)
        return true
    }

    /// Says at once what the newest snapshot is, as after `publish`.
    package func announce() {
        nextAnnouncement.withLock { $0 = monotonicMicroseconds() + Self.announceMicroseconds }
        do {
            guard let current = try server.store.current else { return }
            publish(current.encoded, to: subjects.snapshotAnnounce)
        } catch {
            unread.limited(now: monotonicMicroseconds()) { suppressed in
                log.error(
                    "the current snapshot cannot be announced", ["error": "\(error)", "suppressed": suppressed])
            }
        }
    }

    private func isAnnouncementDue() -> Bool {
        let now = monotonicMicroseconds()
        return connection.isConnected
            && nextAnnouncement.withLock { next in
                guard now >= next else { return false }
                next = now + Self.announceMicroseconds
                return true
            }
    }

    private func publish(_ bytes: [UInt8], to subject: String) {
        let status = unsafe natsConnection_Publish(connection.handle, subject, bytes, Int32(bytes.count))
        guard status != NATS_OK else { return }
        let error = NATSError("send a part of a snapshot", status)
        unsent.limited(now: monotonicMicroseconds()) { suppressed in
            log.warning("an answer was not sent", ["error": "\(error)", "suppressed": suppressed])
        }
    }

    /// Wakes whoever waits in `step`.
    package func close() {
        requests.close()
        connection.flush()
    }
}

/// Requests that wait for a thread of the server: bounded, the newest is dropped, since a region asks again.
///
/// `@unchecked Sendable`: guarded by the condition.
private final class SnapshotRequestQueue: @unchecked Sendable {
    private let condition = NSCondition()
    private var waiting: [(request: SnapshotRequest, inbox: String)] = []
    private var closed = false
    private static let requestsMax = 1024

    var count: Int {
        condition.lock()
        defer { condition.unlock() }
        return waiting.count
    }

    func offer(_ request: SnapshotRequest, inbox: String) {
        condition.lock()
        if waiting.count < Self.requestsMax { waiting.append((request, inbox)) }
        condition.signal()
        condition.unlock()
    }

    func take(waitMicroseconds: Int) -> (request: SnapshotRequest, inbox: String)? {
        condition.lock()
        defer { condition.unlock() }
        let deadline = Date(timeIntervalSinceNow: Double(waitMicroseconds) / 1_000_000)
        while waiting.isEmpty, !closed, condition.wait(until: deadline) {}
        return waiting.isEmpty ? nil : waiting.removeFirst()
    }

    func close() {
        condition.lock()
        closed = true
        condition.broadcast()
        condition.unlock()
    }
}
