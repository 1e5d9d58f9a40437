internal import CNATS
internal import Foundation
internal import Synchronization
import Replicate
import Service

/// Snapshots from whoever serves them on the bus.
///
/// Requests for a file's parts are sent ahead: eight of 256 KiB are under way, so that a link of 100 ms still brings some
/// 20 MB/s. One fetch at a time; `latest` may be called from any thread.
package final class NATSSnapshotSource: SnapshotSource, Sendable {
    private let connection: NATSConnection
    private let subjects: Subjects
    private let inbox: String
    private let mailbox = SnapshotMailbox()
    private let announcements: NATSSubscription
    private let answers: NATSSubscription
    private let nextId = Atomic<UInt64>(1)
    private let nextQuestion = Mutex<Int64>(0)
    /// How long an answer may take.
    private let answerMicroseconds: Int64

    package init(url: String, pipeline: String, region: String, answerMilliseconds: Int = 3000) throws {
        connection = try NATSConnection(url: url, name: "tideline-snapshots-\(region)")
        subjects = Subjects(pipeline: pipeline)
        answerMicroseconds = Int64(answerMilliseconds) * 1000
        var text: UnsafeMutablePointer<CChar>?
        try unsafe NATSError.check("make an inbox", natsInbox_Create(&text))
        inbox = unsafe text.map { unsafe String(cString: $0) } ?? ""
        unsafe natsInbox_Destroy(text)
        let mailbox = mailbox
        announcements = try unsafe NATSSubscription(connection, subject: subjects.snapshotAnnounce) { bytes, _ in
            unsafe mailbox.announced(bytes)
        }
        let prefix = inbox.utf8.count + 1
        answers = try unsafe NATSSubscription(connection, subject: "\(inbox).*") { bytes, message in
            guard let subject = unsafe natsMsg_GetSubject(message),
                let id = unsafe UInt64(String(cString: subject).dropFirst(prefix))
            else { return }
            unsafe mailbox.offer(id, natsMsg_IsNoResponders(message) ? nil : bytes)
        }
        // Answers reach us before anything is asked.
        if connection.isConnected { connection.flush() }
    }

    package var isConnected: Bool { connection.isConnected }

    /// What was announced last. Where nothing was heard yet it asks, at most once a second, and does not wait.
    package func latest() throws -> [UInt8]? {
        if let announced = mailbox.announcement { return announced }
        guard connection.isConnected else { return nil }
        let now = monotonicMicroseconds()
        let asks = nextQuestion.withLock { next in
            guard now >= next else { return false }
            next = now + 1_000_000
            return true
        }
        if asks {
            mailbox.expect(SnapshotMailbox.latestId, bytesMax: SignedManifest.bytesMax)
            try send(.latest, id: SnapshotMailbox.latestId)
        }
        guard case .bytes(let bytes) = mailbox.poll(SnapshotMailbox.latestId),
            case .bytes(let envelope) = try SnapshotAnswer(decoding: bytes)
        else { return nil }
        mailbox.heard(envelope)
        return envelope
    }

    package func manifest(number: UInt64) throws -> [UInt8]? {
        let question = try ask(.manifest(number: number), bytesMax: SignedManifest.bytesMax)
        defer { mailbox.forget(question.id) }
        switch try answer(to: question) {
        case .bytes(let envelope): return envelope
        case .nothing: return nil
        case .refused(let refusal): throw refusal
        }
    }

    package func chunk(of file: SnapshotFile, offset: Int, length: Int) throws -> [UInt8] {
        let question = try ask(.chunk(sha256: file.sha256, offset: offset, length: length), bytesMax: length)
        defer { mailbox.forget(question.id) }
        return try bytes(for: question)
    }

    package func chunks(of file: SnapshotFile, from offset: Int, _ take: (_ bytes: [UInt8]) throws -> Void) throws {
        var next = offset
        var underWay: [Question] = []
        defer { for question in underWay { mailbox.forget(question.id) } }
        while true {
            while underWay.count < SnapshotChunk.window, next < file.bytes {
                let length = min(SnapshotChunk.bytes, file.bytes - next)
                underWay.append(try ask(.chunk(sha256: file.sha256, offset: next, length: length), bytesMax: length))
                next += length
            }
            guard let first = underWay.first else { return }
            let bytes = try bytes(for: first)
            mailbox.forget(first.id)
            underWay.removeFirst()
            try take(bytes)
            // What follows is asked for again behind what came.
            guard bytes.count == first.bytesMax else { return }
        }
    }

    // MARK: One request

    private struct Question {
        let id: UInt64
        let bytesMax: Int
        /// Of the connection when it was asked: what was under way when that broke is lost.
        let reconnects: UInt64
    }

    private func ask(_ request: SnapshotRequest, bytesMax: Int) throws -> Question {
        let reconnects = connection.reconnectCount
        guard connection.isConnected else { throw SnapshotRefusal(.unavailable, "the bus is away") }
        let id = nextId.add(1, ordering: .relaxed).newValue
        mailbox.expect(id, bytesMax: bytesMax)
        do {
            try send(request, id: id)
        } catch {
            mailbox.forget(id)
            throw SnapshotRefusal(.unavailable, "\(error)")
        }
        return Question(id: id, bytesMax: bytesMax, reconnects: reconnects)
    }

    private func send(_ request: SnapshotRequest, id: UInt64) throws(NATSError) {
        let bytes = request.encoded()
        try unsafe NATSError.check(
            "ask for a snapshot",
            natsConnection_PublishRequest(
                connection.handle, subjects.snapshots(request), "\(inbox).\(id)", bytes, Int32(bytes.count)))
    }

    private func bytes(for question: Question) throws -> [UInt8] {
        switch try answer(to: question) {
        case .bytes(let bytes): return bytes
        case .nothing: throw SnapshotRefusal(.malformed, "an answer without bytes")
        case .refused(let refusal): throw refusal
        }
    }

    private func answer(to question: Question) throws -> SnapshotAnswer {
        let deadline = monotonicMicroseconds() + answerMicroseconds
        while true {
            switch mailbox.wait(question.id, microseconds: 50_000) {
            case .bytes(let bytes): return try SnapshotAnswer(decoding: bytes)
            case .nobody: throw SnapshotRefusal(.unavailable, "nobody serves snapshots on the bus")
            case .tooLong(let count):
                throw SnapshotRefusal(.size, "an answer of \(count) bytes, more than were asked for")
            case nil: break
            }
            guard connection.isConnected, connection.reconnectCount == question.reconnects else {
                throw SnapshotRefusal(.unavailable, "the bus went away")
            }
            guard monotonicMicroseconds() < deadline else { throw SnapshotRefusal(.unavailable, "no answer came") }
        }
    }
}

/// Answers between the library's threads and the one that fetches. It takes only what was asked for, so it is bounded by
/// the window: eight answers, and one announcement.
///
/// `@unchecked Sendable`: guarded by the condition.
private final class SnapshotMailbox: @unchecked Sendable {
    enum Arrival {
        case bytes([UInt8])
        case tooLong(Int)
        /// The server's word that there is no subscriber.
        case nobody
    }

    /// Of the question for the newest snapshot, for which nobody waits.
    static let latestId: UInt64 = 0

    private let condition = NSCondition()
    private var expected: [UInt64: Int] = [:]
    private var arrived: [UInt64: Arrival] = [:]
    private var newest: [UInt8]?

    var announcement: [UInt8]? {
        condition.lock()
        defer { condition.unlock() }
        return newest
    }

    func announced(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count <= SignedManifest.bytesMax else { return }
        let copy = unsafe Array(bytes)
        condition.lock()
        newest = copy
        condition.unlock()
    }

    /// The answer to the question stands for an announcement until there is one.
    func heard(_ envelope: [UInt8]) {
        condition.lock()
        if newest == nil { newest = envelope }
        arrived[Self.latestId] = nil
        condition.unlock()
    }

    func expect(_ id: UInt64, bytesMax: Int) {
        condition.lock()
        expected[id] = bytesMax
        condition.unlock()
    }

    /// - Parameter bytes: `nil` where nobody is there to answer.
    func offer(_ id: UInt64, _ bytes: UnsafeRawBufferPointer?) {
        condition.lock()
        defer { condition.unlock() }
        guard let bytesMax = expected.removeValue(forKey: id) else { return }
        if let bytes = unsafe bytes {
            // A refusal is longer than a short chunk.
            let fits = bytes.count <= max(bytesMax, 1024) + SnapshotAnswer.headBytes
            arrived[id] = unsafe fits ? .bytes(Array(bytes)) : .tooLong(bytes.count)
        } else {
            arrived[id] = .nobody
        }
        condition.broadcast()
    }

    /// `nil` where nothing came yet.
    func wait(_ id: UInt64, microseconds: Int) -> Arrival? {
        condition.lock()
        defer { condition.unlock() }
        let deadline = Date(timeIntervalSinceNow: Double(microseconds) / 1_000_000)
        while arrived[id] == nil, condition.wait(until: deadline) {}
        return arrived[id]
    }

    func poll(_ id: UInt64) -> Arrival? {
        condition.lock()
        defer { condition.unlock() }
        return arrived[id]
    }

    func forget(_ id: UInt64) {
        condition.lock()
        expected[id] = nil
        arrived[id] = nil
        condition.unlock()
    }
}
