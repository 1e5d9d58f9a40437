import Changes
import Features
internal import Foundation
import HTTP
import Service
import Storage
internal import Synchronization

/// The core's HTTP routes: events come in, and whoever asks is told how the core stands.
package struct IngestRoutes: Sendable {
    private let log: any IngestLog
    private let view: View
    private let pipeline: Pipeline
    private let figures: CoreFigures
    private let decoders = DecoderPool()
    private let clock: any WallClock

    /// Events that may wait in the log before more are refused for now.
    package static let backlogMax: UInt64 = 2_000_000
    package static let bodyBytesMax = 8 << 20
    /// A memory bound for one request, whatever its lines' lengths.
    private static let errorsNamedMax = 100

    package init(
        log: any IngestLog, view: View, pipeline: Pipeline, figures: CoreFigures, clock: any WallClock = SystemClock()
    ) {
        self.log = log
        self.view = view
        self.pipeline = pipeline
        self.figures = figures
        self.clock = clock
    }

    package func install(in router: inout Router) {
        let routes = self
        router.post("/v1/events", bodyBytesMax: Self.bodyBytesMax) { try routes.ingest($0) }
        router.get("/v1/status") { routes.status($0) }
        router.get("/v1/scores") { try routes.scores($0) }
        router.get("/v1/dead-letters") { try routes.deadLetters($0) }
        router.get("/healthz") { _ in .text("ok\n") }
        router.get("/readyz") { _ in .text("ready\n") }
    }

    // MARK: ingest

    private struct Refused: Sendable {
        var line: Int
        var reason: String
    }

    /// One JSON object, or one a line. Answers when the events are on the disk.
    private func ingest(_ request: borrowing Request) throws -> Response {
        guard log.backlog.events < Self.backlogMax else {
            throw Self.unavailable("events come in faster than they are scored")
        }
        var append = AppendRequest()
        var refused: [Refused] = []
        var refusedCount = 0
        var lines = 0
        decoders.with(pipeline) { decoder in
            unsafe request.withBody { body in
                unsafe Self.forEachEvent(in: body) { event, readable in
                    lines += 1
                    var reason = unsafe decoder.decode(event, readable: readable)?.description
                    if reason == nil, decoder.tenant == nil { reason = "unknown tenant" }
                    guard let reason else {
                        unsafe append.add(event, partition: partition(of: decoder.primaryEntity, count: log.partitions))
                        return
                    }
                    refusedCount += 1
                    if refused.count < Self.errorsNamedMax { refused.append(Refused(line: lines, reason: reason)) }
                }
            }
        }
        guard lines > 0 else {
            throw Problem.badRequest("the body holds no event: send one JSON object, or one a line")
        }
        let accepted = append.count
        guard accepted > 0 else { return answer(accepted: 0, refused, refusedCount, ends: [:]) }
        let pending = PendingAppend()
        do {
            try log.append(append) { pending.finish($0) }
        } catch let busy as LogBusy {
            throw Self.unavailable(busy.description)
        }
        let routes = self
        let (named, count) = (refused, refusedCount)
        let response: @Sendable (Result<[Int: UInt64], any Error>) -> Response = { result in
            switch result {
            case .success(let ends): routes.answer(accepted: accepted, named, count, ends: ends)
            case .failure(let error): Self.unavailable("the log did not take the events: \(error)").response
            }
        }
        if let result = pending.result { return response(result) }
        let late = Self.unavailable("the log has not acknowledged the events yet; they may be taken all the same")
        return .deferred(timeout: .seconds(20), fallback: late.response) { responder in
            pending.whenFinished { responder.respond(response($0)) }
        }
    }

    /// Sending again is safe: what was taken already is dropped by its id.
    private static func unavailable(_ detail: String) -> Problem {
        var problem = Problem(status: 503, detail: detail + "; send them again later")
        problem.headers.append("Retry-After", 1)
        return problem
    }

    private func answer(accepted: Int, _ refused: [Refused], _ refusedCount: Int, ends: [Int: UInt64]) -> Response {
        var json = JSONWriter()
        json.beginObject()
        json.member("accepted", accepted)
        json.member("refused", refusedCount)
        if accepted > 0 { json.member("token", token(ends)) }
        json.key("errors")
        json.beginArray()
        for item in refused {
            json.beginObject()
            json.member("line", item.line)
            json.member("reason", item.reason)
            json.endObject()
        }
        json.endArray()
        json.endObject()
        return .json(json, status: accepted > 0 ? 202 : 422)
    }

    private func token(_ ends: [Int: UInt64]) -> String {
        "\(log.lineage):" + ends.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: ",")
    }

    /// Visits the events of a body: one a line, or the whole body where its first line is not a whole object.
    static func forEachEvent(
        in body: UnsafeRawBufferPointer, _ visit: (_ event: UnsafeRawBufferPointer, _ readable: Int) -> Void
    ) {
        func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 || byte == 0x0D || byte == 0x0A }
        func trimmed(_ range: Range<Int>) -> Range<Int> {
            var low = range.lowerBound
            var high = range.upperBound
            while low < high, unsafe isSpace(body[low]) { low += 1 }
            while high > low, unsafe isSpace(body[high - 1]) { high -= 1 }
            return low..<high
        }
        let whole = trimmed(0..<body.count)
        guard !whole.isEmpty else { return }
        var start = whole.lowerBound
        var isFirst = true
        while start < whole.upperBound {
            var end = start
            while end < whole.upperBound, unsafe body[end] != 0x0A { end += 1 }
            let line = trimmed(start..<end)
            if isFirst, !line.isEmpty, end < whole.upperBound, unsafe body[line.upperBound - 1] != UInt8(ascii: "}") {
                unsafe visit(UnsafeRawBufferPointer(rebasing: body[whole]), body.count - whole.lowerBound)
                return
            }
            if !line.isEmpty {
                isFirst = false
                unsafe visit(UnsafeRawBufferPointer(rebasing: body[line]), body.count - line.lowerBound)
            }
            start = end + 1
        }
    }

    // MARK: reading

    private func status(_ request: borrowing Request) -> Response {
        let counts = figures.current
        let backlog = log.backlog
        let now = clock.now
        var json = request.makeWriter()
        json.beginObject()
        json.member("role", "core")
        json.member("pipeline", pipeline.name)
        json.member("lineage", log.lineage.description)
        json.member("partitions", log.partitions)
        json.key("slot")
        if let slot = log.slot { json.value(slot) } else { json.null() }
        json.member("scored", counts.scored)
        json.member("flagged", counts.flagged)
        json.member("duplicates", counts.duplicates)
        json.member("deadLetters", counts.deadLetters)
        json.member("late", counts.late)
        json.member("fromFuture", counts.fromFuture)
        json.member("batches", counts.batches)
        json.member("entities", counts.entities)
        json.member("stateBytes", counts.stateBytes)
        json.member("backlogEvents", backlog.events)
        json.member(
            "backlogAgeMilliseconds", backlog.oldestAppendTime > 1 ? max(0, (now - backlog.oldestAppendTime) / 1000) : 0
        )
        json.key("halted")
        json.beginArray()
        for (partition, reason) in log.halted.sorted(by: { $0.key < $1.key }) {
            json.beginObject()
            json.member("partition", partition)
            json.member("reason", reason)
            json.endObject()
        }
        json.endArray()
        json.key("stages")
        json.beginObject()
        for (name, sketch) in [
            ("queued", figures.queued), ("score", figures.scoring), ("commit", figures.commit),
            ("total", figures.total),
        ] {
            let summary = sketch.summary()
            json.key(name)
            json.beginObject()
            json.member("p50Milliseconds", summary.p50 / 1000)
            json.member("p99Milliseconds", summary.p99 / 1000)
            json.member("p999Milliseconds", summary.p999 / 1000)
            json.endObject()
        }
        json.endObject()
        json.key("heads")
        json.beginArray()
        for partition in 0..<log.partitions {
            guard let seq = log.changelogEnd(of: partition) else { continue }
            json.beginObject()
            json.member("partition", partition)
            json.member("seq", seq)
            if let position = counts.positions[partition] {
                json.member("digest", String(position.digest, radix: 16))
                json.member("endOffset", position.endOffset)
            }
            json.endObject()
        }
        json.endArray()
        json.endObject()
        return .json(json)
    }

    /// Committed scores of a partition after a transaction, as JSON lines; `Tideline-Next` says where to go on.
    private func scores(_ request: borrowing Request) throws -> Response {
        let (partition, after) = try position(request)
        var body: [UInt8] = []
        var next = after
        try unsafe log.reader.scores(of: partition, after: after) { seq, lines in
            next = seq
            unsafe body.append(contentsOf: lines)
            return body.count < 1 << 20
        }
        var headers = HeaderBlock()
        headers.append("Tideline-Next", "partition=\(partition)&after=\(next)")
        return Response(contentType: .ndjson, headers: headers, body: body)
    }

    private func deadLetters(_ request: borrowing Request) throws -> Response {
        let (partition, after) = try position(request)
        var json = JSONWriter()
        var next = after
        try log.reader.deadLetters(of: partition, after: after) { seq, letters in
            next = seq
            for letter in letters {
                json.beginObject()
                json.member("partition", partition)
                json.member("offset", letter.offset)
                json.member("reason", letter.reason)
                json.key("bytes")
                json.value(utf8: String(decoding: letter.bytes.prefix(4096), as: UTF8.self).utf8)
                json.endObject()
                json.endLine()
            }
            return json.bytes.count < 1 << 20
        }
        var headers = HeaderBlock()
        headers.append("Tideline-Next", "partition=\(partition)&after=\(next)")
        return Response(contentType: .ndjson, headers: headers, body: json.bytes)
    }

    private func position(_ request: borrowing Request) throws -> (partition: Int, after: UInt64) {
        let partition = try request.queryInt("partition", in: 0...(log.partitions - 1)) ?? 0
        return (partition, UInt64(try request.queryInt("after", in: 0...Int.max) ?? 0))
    }

    package func metricsText() -> String {
        let counts = figures.current
        let backlog = log.backlog
        var lines: [String] = []
        func add(_ name: String, _ type: String, _ help: String, _ value: String) {
            lines.append("# HELP \(name) \(help)\n# TYPE \(name) \(type)\n\(name) \(value)")
        }
        add("tideline_core_scored_total", "counter", "Events scored.", "\(counts.scored)")
        add("tideline_core_flagged_total", "counter", "Events over the threshold.", "\(counts.flagged)")
        add("tideline_core_duplicates_total", "counter", "Events dropped as duplicates.", "\(counts.duplicates)")
        add("tideline_core_dead_letters_total", "counter", "Events that could not be scored.", "\(counts.deadLetters)")
        add("tideline_core_batches_total", "counter", "Transactions committed.", "\(counts.batches)")
        add(
            "tideline_core_slot", "gauge", "Place among the cores that share the log; -1 while it stands by.",
            "\(log.slot ?? -1)")
        add(
            "tideline_core_halted_partitions", "gauge", "Partitions that stand still until someone acts: /v1/status.",
            "\(log.halted.count)")
        add("tideline_core_backlog_events", "gauge", "Events taken and not yet committed.", "\(backlog.events)")
        add("tideline_core_state_bytes", "gauge", "Memory of the window tiles.", "\(counts.stateBytes)")
        for (name, sketch) in [
            ("queued", figures.queued), ("score", figures.scoring), ("commit", figures.commit),
            ("total", figures.total),
        ] {
            let summary = sketch.summary()
            let metric = "tideline_core_\(name)_seconds"
            lines.append("# HELP \(metric) Time of the stage, by quantile.\n# TYPE \(metric) gauge")
            for (quantile, value) in [(0.5, summary.p50), (0.99, summary.p99), (0.999, summary.p999)] {
                lines.append("\(metric){quantile=\"\(quantile)\"} \(value / 1_000_000)")
            }
        }
        lines.append("# HELP \(StoreMemory.metric) \(StoreMemory.help)\n# TYPE \(StoreMemory.metric) gauge")
        for (store, memory) in [("log", log.memory), ("view", view.store.memory)] {
            guard let memory else { continue }
            for (part, bytes) in memory.parts {
                lines.append("\(StoreMemory.metric){store=\"\(store)\",part=\"\(part)\"} \(bytes)")
            }
        }
        return lines.joined(separator: "\n") + "\n"
    }
}

/// Decoders for the server's threads: each request borrows one.
///
/// `@unchecked Sendable`: guarded by the lock; a decoder is lent to one thread at a time.
private final class DecoderPool: @unchecked Sendable {
    private let lock = NSLock()
    private var idle: [EventDecoder] = []

    func with<Result>(_ pipeline: Pipeline, _ use: (EventDecoder) throws -> Result) rethrows -> Result {
        let decoder = lock.withLock { idle.popLast() } ?? EventDecoder(pipeline)
        defer { lock.withLock { idle.append(decoder) } }
        return try use(decoder)
    }
}

/// A request's events on their way into the log.
///
/// `@unchecked Sendable`: guarded by the lock.
private final class PendingAppend: @unchecked Sendable {
    private let lock = NSLock()
    private var finished: Result<[Int: UInt64], any Error>?
    private var waiting: (@Sendable (Result<[Int: UInt64], any Error>) -> Void)?

    var result: Result<[Int: UInt64], any Error>? { lock.withLock { finished } }

    func finish(_ result: Result<[Int: UInt64], any Error>) {
        let call = lock.withLock {
            finished = result
            return waiting
        }
        call?(result)
    }

    func whenFinished(_ call: @escaping @Sendable (Result<[Int: UInt64], any Error>) -> Void) {
        let result = lock.withLock {
            if finished == nil { waiting = call }
            return finished
        }
        if let result { call(result) }
    }
}
