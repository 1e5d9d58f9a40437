import Foundation
import HTTP
import Service

/// Posts batches of events to a core over a few connections, until it has taken each of them: after 429, 503 or a broken
/// connection the same bytes go again, with the same ids, so that nothing is lost and nothing is scored twice.
///
/// At most two batches a connection are in flight or waiting: `post` blocks beyond that.
///
/// `@unchecked Sendable`: all state is guarded by the condition.
final class EventPoster: @unchecked Sendable {
    struct Counts: Sendable {
        var accepted = 0
        var refused = 0
        /// Posts that were made again.
        var retries = 0
        /// The first reasons of refusal, with the row where rows are numbered.
        var reasons: [String] = []
        /// Why the core does not take events right now.
        var trouble: String?
        /// Batches that no post will help.
        var failure: String?
    }

    private struct Batch {
        var body: [UInt8]
        var events: Int
        var firstRow: Int?
    }

    static let reasonsMax = 5
    private let url: String
    private let condition = NSCondition()
    private var waiting: [Batch] = []
    private var posting = 0
    private var isEnding = false
    private var isAbandoned = false
    private var current = Counts()
    private var threads: [RoleThread] = []
    private let waitingMax: Int

    /// - Parameter url: the core's, without a path.
    init(url: String, connections: Int) {
        self.url = (url.hasSuffix("/") ? String(url.dropLast()) : url) + "/v1/events"
        waitingMax = connections
        threads = (0..<connections).map { index in
            RoleThread(name: "post-\(index)") { [self] in work() }
        }
    }

    var counts: Counts {
        condition.lock()
        defer { condition.unlock() }
        return current
    }

    /// Hands over a batch; waits while too many wait. Returns whether it was taken: not after a failure, nor once
    /// `isStopped` says so during the wait.
    @discardableResult
    func post(_ body: [UInt8], events: Int, firstRow: Int? = nil, unless isStopped: () -> Bool) -> Bool {
        condition.lock()
        defer { condition.unlock() }
        while waiting.count >= waitingMax, !isOver {
            guard !condition.wait(until: Date(timeIntervalSinceNow: 0.1)) else { continue }
            // Without the lock: the caller may well ask for the counts.
            condition.unlock()
            let isEnough = isStopped()
            condition.lock()
            if isEnough { return false }
        }
        guard !isOver else { return false }
        waiting.append(Batch(body: body, events: events, firstRow: firstRow))
        condition.broadcast()
        return true
    }

    /// A row that never becomes an event.
    func refuse(_ reason: String) {
        condition.lock()
        current.refused += 1
        if current.reasons.count < Self.reasonsMax { current.reasons.append(reason) }
        condition.unlock()
    }

    /// Waits until all is posted; once `isStopped` says so, for five more seconds.
    func finish(unless isStopped: () -> Bool, meanwhile show: () -> Void = {}) {
        var patience = 100
        condition.lock()
        while !waiting.isEmpty || posting > 0, !isOver {
            _ = condition.wait(until: Date(timeIntervalSinceNow: 0.05))
            condition.unlock()
            show()
            if isStopped() { patience -= 1 }
            condition.lock()
            if patience <= 0 { isAbandoned = true }
        }
        condition.unlock()
        end()
    }

    private func end() {
        condition.lock()
        isEnding = true
        condition.broadcast()
        condition.unlock()
        for thread in threads { thread.join(seconds: 15) }
    }

    private var isOver: Bool { isAbandoned || current.failure != nil }

    // MARK: threads

    private func work() {
        var configuration = HTTPClient.Configuration()
        configuration.connectTimeout = .seconds(1)
        configuration.timeout = .seconds(10)
        let client = HTTPClient(configuration: configuration)
        while let batch = take() {
            deliver(batch, by: client)
            condition.lock()
            posting -= 1
            condition.broadcast()
            condition.unlock()
        }
    }

    private func take() -> Batch? {
        condition.lock()
        defer { condition.unlock() }
        while waiting.isEmpty, !isEnding, !isOver { condition.wait() }
        guard !isOver, !waiting.isEmpty else { return nil }
        posting += 1
        defer { condition.broadcast() }
        return waiting.removeFirst()
    }

    private func deliver(_ batch: Batch, by client: HTTPClient) {
        var pause = 0.05
        while true {
            var trouble: String
            do throws(HTTPClientError) {
                let answer = try client.post(url, body: batch.body, contentType: "application/x-ndjson")
                switch answer.status {
                case 202, 422: return settle(batch, answer)
                case 429, 500...599: trouble = "the core answers \(answer.status)"
                default:
                    let text = answer.text.prefix(200)
                    return fail("\(url) answers \(answer.status): \(text); is this a core's address?")
                }
                if let seconds = answer.header("retry-after").flatMap(Double.init) {
                    pause = max(pause, min(seconds, 5))
                }
            } catch {
                guard error.isRetriable else { return fail("\(url) cannot be posted to: \(error)") }
                trouble = "the core is away: \(error)"
            }
            condition.lock()
            current.retries += 1
            current.trouble = trouble
            let over = isOver || condition.waitsInVain(seconds: pause) { self.isOver }
            condition.unlock()
            if over { return }
            pause = min(pause * 2, 1)
        }
    }

    private func settle(_ batch: Batch, _ answer: HTTPClient.Answer) {
        let object = (try? JSONSerialization.jsonObject(with: Data(answer.body))) as? [String: Any]
        let refused = object?["refused"] as? Int ?? (answer.status == 202 ? 0 : batch.events)
        let errors = refused > 0 ? object?["errors"] as? [[String: Any]] ?? [] : []
        condition.lock()
        current.accepted += object?["accepted"] as? Int ?? batch.events - refused
        current.refused += refused
        current.trouble = nil
        for error in errors.prefix(max(0, Self.reasonsMax - current.reasons.count)) {
            let reason = error["reason"] as? String ?? "refused"
            let row = batch.firstRow.flatMap { first in (error["line"] as? Int).map { first + $0 - 1 } }
            current.reasons.append(row.map { "row \($0): \(reason)" } ?? reason)
        }
        condition.unlock()
    }

    private func fail(_ reason: String) {
        condition.lock()
        if current.failure == nil { current.failure = reason }
        condition.broadcast()
        condition.unlock()
    }
}

extension NSCondition {
    /// Waits so long, with the lock held, unless `over` comes true; returns it.
    fileprivate func waitsInVain(seconds: Double, _ over: () -> Bool) -> Bool {
        let until = Date(timeIntervalSinceNow: seconds)
        while !over(), wait(until: until) {}
        return over()
    }
}
