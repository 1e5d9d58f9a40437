import Changes
import Features
import Foundation
import HTTP
import Replicate
import Service
import Storage
import Vectors

/// The HTTP routes of a region. Every answer says from which region it comes, in which state, and how stale it may be.
///
/// A handler runs to its end on the thread that read the request; only a read token, and an event stream, wait.
package struct EdgeRoutes: Sendable {
    let region: Region
    private let clock: any WallClock
    private let metrics: EdgeMetrics
    let searchers = SearcherPool()

    package init(_ region: Region, clock: any WallClock = SystemClock()) {
        self.region = region
        self.clock = clock
        metrics = EdgeMetrics(region)
    }

    package func install(in router: inout Router, page: [UInt8]) {
        let routes = self
        router.get("/") { _ in Response(contentType: .html, headers: Self.pageHeaders, body: page) }
        router.get("/v1/events") { request in try routes.answer(request) { try routes.recent($0, $1, &$2) } }
        router.get("/v1/events/{id}") { request in try routes.answer(request) { try routes.event($0, $1, &$2) } }
        router.get("/v1/similar") { request in try routes.answer(request) { try routes.similar($0, $1, &$2) } }
        router.post("/v1/similar", bodyBytesMax: 1 << 20) { request in
            try routes.answer(request) { try routes.similarTo($0, $1, &$2) }
        }
        router.get("/v1/entities/{kind}/{id}") { request in
            try routes.answer(request) { try routes.entity($0, $1, &$2) }
        }
        router.post("/v1/score", bodyBytesMax: 1 << 20) { request in
            try routes.answer(request) { try routes.score($0, $1, &$2) }
        }
        router.get("/v1/stream") { request in try routes.stream(request) }
        router.get("/v1/status") { request in routes.statusAnswer(request) }
        router.get("/healthz") { _ in .text("ok\n") }
        router.get("/readyz") { _ in
            routes.region.replica == nil || !routes.region.status.hasView
                ? .problem(Problem(status: 503, detail: "no complete view yet")) : .text("ready\n")
        }
    }

    /// Adds what this region measures to the server's metrics text.
    package func metricsText() -> String { metrics.text(now: clock.now) }

    /// A page from our own origin alone, framed by nobody.
    private static let pageHeaders: HeaderBlock = [
        "Content-Security-Policy":
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
    ]

    // MARK: what every answer has

    private typealias Query = (borrowing Request, Replica, inout JSONWriter) throws -> Void

    /// Checks what the reader demands, runs the query, and adds the region's headers.
    private func answer(_ request: borrowing Request, _ query: Query) throws -> Response {
        let now = clock.now
        let status = region.status
        guard let replica = region.replica, status.hasView else {
            throw unavailable("this region has no complete view yet", now: now)
        }
        if let text = request.header("Tideline-Max-Staleness") {
            guard let limit = Int64(text), limit >= 0 else {
                throw Problem.badRequest("Tideline-Max-Staleness is a number of milliseconds")
            }
            if (status.stalenessMilliseconds(now: now) ?? .max) > limit {
                throw unavailable("this region is staler than \(limit) ms", now: now)
            }
        }
        if let text = request.header("Tideline-Read-Token") {
            guard let token = ReadToken(text) else { throw Problem.badRequest("Tideline-Read-Token is none of ours") }
            if !token.isReached(by: replica.positions) { return waiting(for: token, request, now: now) }
        }
        var json = request.makeWriter()
        try query(request, replica, &json)
        var headers = request.makeHeaders()
        write(status, replica, now: now, to: &headers)
        return .json(json, headers: headers)
    }

    /// The reader's own events are not here yet. The connection waits, without a thread, until they are, at most five
    /// seconds; then the same question is asked again by a redirect to itself, and finds them.
    private func waiting(for token: ReadToken, _ request: borrowing Request, now: Int64) -> Response {
        let region = region
        let query = request.queryItems.map { "\($0.key.percentEncoded)=\($0.value.percentEncoded)" }.joined(
            separator: "&")
        let target = query.isEmpty ? request.path : "\(request.path)?\(query)"
        let fallback = unavailable(
            "your events have not reached this region yet; ask again, or ask another region", now: now)
        return .deferred(timeout: .seconds(5), fallback: fallback.response) { responder in
            region.wait(for: token) {
                var headers = HeaderBlock()
                headers.append("Location", target)
                headers.append("Tideline-Region", region.configuration.name)
                _ = responder.respond(Response(status: 307, headers: headers))
            }
        }
    }

    private func unavailable(_ detail: String, now: Int64) -> Problem {
        var problem = Problem(status: 503, detail: detail)
        problem.headers.append("Retry-After", 1)
        problem.headers.append("Tideline-Region", region.configuration.name)
        problem.headers.append("Tideline-State", region.status.state(now: now).rawValue)
        for (name, url) in region.configuration.others.sorted(by: { $0.key < $1.key }) {
            problem.members.append((name: "region-\(name)", value: .string(url)))
        }
        return problem
    }

    private func write(_ status: RegionStatus, _ replica: Replica, now: Int64, to headers: inout HeaderBlock) {
        headers.append("Tideline-Region", region.configuration.name)
        headers.append("Tideline-State", status.state(now: now).rawValue)
        if let staleness = status.stalenessMilliseconds(now: now) { headers.append("Tideline-Staleness-Ms", staleness) }
        if status.asOf > 0 {
            unsafe Timestamp.withText(status.asOf) { unsafe headers.append("Tideline-As-Of", bytes: $0) }
        }
        let snapshot = replica.vectors.snapshot
        if snapshot == 0 {
            headers.append("Tideline-Snapshot", "none")
        } else {
            headers.append("Tideline-Snapshot", Int64(snapshot))
        }
        headers.append("Tideline-Frontier", numbered: replica.frontier.lazy.compactMap { $0?.seq })
    }

    /// The tenant whose data is asked for. Keys and scopes come with the secured API; until then it is a parameter.
    func tenant(_ request: borrowing Request, _ replica: Replica) throws -> Int {
        guard let name = request.query("tenant") else { return 0 }
        guard let index = replica.pipeline.tenants.firstIndex(of: name) else {
            throw Problem.notFound("no such tenant")
        }
        return index
    }

    // MARK: questions

    private func recent(_ request: borrowing Request, _ replica: Replica, _ json: inout JSONWriter) throws {
        let limit = try request.queryInt("limit", in: 1...1000) ?? 50
        let tenant = try tenant(request, replica)
        let flagged = request.query("flagged") == "true"
        let name = replica.pipeline.tenants[tenant]
        // The newest row there could be, or the last one of the page before.
        var from = EventKey(time: -1, place: .max)
        if let cursor = request.query("cursor") {
            guard let key = EventKey(cursor: cursor) else { throw Problem.badRequest("cursor is none of ours") }
            from = key
        }
        var count = 0
        var visited = 0
        var last: EventKey?
        json.beginObject()
        json.key("events")
        json.beginArray()
        try unsafe from.withRow(tenant: name) { start in
            let prefix = unsafe UnsafeRawBufferPointer(rebasing: start[..<(start.count - 16)])
            let iterator = StoreIterator(replica.view.store)
            unsafe iterator.seekBack(start)
            if iterator.isValid, unsafe iterator.key.elementsEqual(start) { iterator.previous() }
            while count < limit, visited < 100_000, iterator.isValid, unsafe iterator.key.starts(with: prefix) {
                if let key = unsafe EventKey(row: iterator.key), let row = unsafe EventRow(iterator.value) {
                    last = key
                    visited += 1
                    if !flagged || row.record.flags.contains(.flagged) {
                        unsafe EventJSON.write(
                            id: row.id, row.record, pipeline: replica.pipeline, details: false, to: &json)
                        count += 1
                    }
                }
                iterator.previous()
            }
            try iterator.check()
        }
        json.endArray()
        if let last, count == limit || visited == 100_000 {
            json.key("cursor")
            unsafe last.withCursor { unsafe json.value(utf8: $0) }
        }
        json.endObject()
    }

    /// Lends the row of an event's newest version, and its key.
    func withRow<Result>(
        _ replica: Replica, tenant: Int, id: String, _ use: (EventKey, EventRow) throws -> Result
    ) throws -> Result {
        let name = replica.pipeline.tenants[tenant]
        let store = replica.view.store
        let key = try unsafe EventKey.withIdentifier(tenant: name, id: id) {
            try unsafe store.get($0) { unsafe EventKey(value: $0) } ?? nil
        }
        let result = try key.flatMap { key in
            try unsafe key.withRow(tenant: name) {
                try unsafe store.get($0) { bytes in try unsafe EventRow(bytes).map { try use(key, $0) } } ?? nil
            }
        }
        guard let result else { throw Problem.notFound("no event `\(id)` in this region") }
        return result
    }

    private func event(_ request: borrowing Request, _ replica: Replica, _ json: inout JSONWriter) throws {
        let tenant = try tenant(request, replica)
        let id = request.parameter("id")
        try withRow(replica, tenant: tenant, id: id) { _, row in
            unsafe EventJSON.write(id: row.id, row.record, pipeline: replica.pipeline, details: true, to: &json)
        }
    }

    private func entity(_ request: borrowing Request, _ replica: Replica, _ json: inout JSONWriter) throws {
        let tenant = try tenant(request, replica)
        let name = request.parameter("kind")
        let id = request.parameter("id")
        guard let kind = replica.pipeline.entities.firstIndex(where: { $0.name == name }) else {
            let known = replica.pipeline.entities.map(\.name).joined(separator: ", ")
            throw Problem.notFound("no kind of entity `\(name)`; there are: \(known)")
        }
        let now = clock.now
        guard let summary = replica.entity(kind: kind, id: id, tenant: tenant, time: now) else {
            throw Problem.notFound("no \(name) `\(id)` in this region")
        }
        json.beginObject()
        json.member("kind", name)
        json.member("id", id)
        json.member("lastEventTime", time: summary.last)
        json.member("windowsAsOf", time: now)
        json.key("features")
        json.beginObject()
        for (name, value) in summary.features {
            json.key(name)
            json.value(value)
        }
        json.endObject()
        json.endObject()
    }

    func preview(_ replica: Replica, _ event: Data) throws -> Provisional {
        do {
            return try unsafe [UInt8](event).withUnsafeBytes { try unsafe replica.preview($0, now: clock.now) }
        } catch let refusal as EventRefusal {
            throw Problem(status: 422, detail: refusal.description)
        }
    }

    private func score(_ request: borrowing Request, _ replica: Replica, _ json: inout JSONWriter) throws {
        let provisional = try preview(replica, Data(request.body))
        json.beginObject()
        json.member("id", provisional.id)
        json.member("provisional", true)
        json.member("time", time: provisional.time)
        json.member("score", provisional.score)
        json.member("flagged", provisional.score > replica.pipeline.threshold)
        json.key("reasons")
        json.beginArray()
        for reason in provisional.reasons {
            json.beginObject()
            json.member("feature", reason.name)
            json.member("contribution", reason.contribution)
            json.endObject()
        }
        json.endArray()
        json.key("features")
        json.beginObject()
        for (name, value) in zip(replica.pipeline.featureNames, provisional.features) {
            json.key(name)
            json.value(value)
        }
        json.endObject()
        json.endObject()
    }

    private func stream(_ request: borrowing Request) throws -> Response {
        guard let replica = region.replica else { throw unavailable("this region has no view yet", now: clock.now) }
        let tenant = try tenant(request, replica)
        guard let stream = region.stream.add(tenant: replica.pipeline.tenants[tenant]) else {
            throw unavailable("too many event streams are open", now: clock.now)
        }
        return .stream(stream)
    }

    // MARK: status

    private func statusAnswer(_ request: borrowing Request) -> Response {
        let now = clock.now
        let status = region.status
        var json = request.makeWriter()
        json.beginObject()
        json.member("region", region.configuration.name)
        json.member("state", status.state(now: now).rawValue)
        json.member("diverged", status.hasDiverged)
        json.key("stalenessMilliseconds")
        if let staleness = status.stalenessMilliseconds(now: now) { json.value(staleness) } else { json.null() }
        json.key("asOf")
        if status.asOf > 0 { json.value(Timestamp.text(status.asOf)) } else { json.null() }
        json.member("pipeline", region.pipeline.name)
        json.key("tenants")
        json.beginArray()
        for tenant in region.pipeline.tenants { json.value(tenant) }
        json.endArray()
        json.key("entities")
        json.beginArray()
        for entity in region.pipeline.entities { json.value(entity.name) }
        json.endArray()
        json.member("threshold", region.pipeline.threshold)
        json.member("batches", region.figures.batches)
        json.member("events", region.figures.events)
        json.member("repairs", region.figures.repairs)
        json.member("divergences", region.figures.divergences)
        write("ingestToVisibleMilliseconds", region.figures.visible, &json)
        write("commitToVisibleMilliseconds", region.figures.applyLag, &json)
        if let progress = region.snapshots.progress { write(progress, &json) }
        if let replica = region.replica { write(replica, status, &json) }
        json.endObject()
        var headers = request.makeHeaders()
        if let replica = region.replica { write(status, replica, now: now, to: &headers) }
        return .json(json, headers: headers)
    }

    /// Quantiles of what was measured in microseconds.
    private func write(_ name: StaticString, _ sketch: LatencySketch, _ json: inout JSONWriter) {
        let summary = sketch.summary()
        json.key(name)
        json.beginObject()
        json.member("p50", summary.p50 / 1000)
        json.member("p99", summary.p99 / 1000)
        json.member("p999", summary.p999 / 1000)
        json.endObject()
    }

    /// How far a region that begins with a snapshot is.
    private func write(_ progress: SnapshotFigures.Progress, _ json: inout JSONWriter) {
        json.key("bootstrap")
        json.beginObject()
        json.member("bytesDone", progress.bytesDone)
        json.member("bytesTotal", progress.bytesTotal)
        json.key("secondsLeft")
        if let seconds = progress.secondsLeft { json.value(seconds) } else { json.null() }
        json.endObject()
    }

    private func writeSnapshot(_ replica: Replica, _ json: inout JSONWriter) {
        let facts = replica.vectors.facts
        json.key("snapshot")
        json.beginObject()
        json.key("number")
        if replica.vectors.snapshot > 0 { json.value(replica.vectors.snapshot) } else { json.null() }
        json.member("segments", replica.vectors.segments)
        json.member("sealedHere", replica.vectors.own.reduce(0) { $0 + $1.count })
        json.member("vectorsSealed", facts.rows)
        json.member("vectorsInTail", replica.vectors.tailRows)
        json.member("memoryBytes", facts.memoryBytes)
        json.member("fileBytes", facts.fileBytes)
        json.key("parts")
        json.beginArray()
        for (tenant, name) in replica.pipeline.tenants.enumerated() {
            for (part, isOwn) in replica.vectors.shipped[tenant].map({ ($0, false) })
                + replica.vectors.own[tenant].map({ ($0, true) })
            {
                let facts = part.live.segment.facts
                json.beginObject()
                json.member("tenant", name)
                json.member("sealedHere", isOwn)
                json.member("vectors", facts.rows)
                json.member("dead", part.live.deadCount)
                json.member("distinct", facts.nodes)
                json.member("linkBytes", facts.linkBytes)
                json.member("codeBytes", facts.codeBytes)
                json.member("floatBytes", facts.floatBytes)
                json.member("fileBytes", facts.fileBytes)
                json.endObject()
            }
        }
        json.endArray()
        json.key("refused")
        if let (name, refusal) = region.snapshots.standingRefusal {
            json.beginObject()
            json.member("snapshot", name)
            json.member("reason", refusal.reason.rawValue)
            json.member("detail", refusal.detail)
            json.endObject()
        } else {
            json.null()
        }
        json.endObject()
    }

    private func write(_ replica: Replica, _ status: RegionStatus, _ json: inout JSONWriter) {
        json.member("lineage", replica.lineage.description)
        json.member("entitiesInMemory", replica.entityCount)
        json.member("stateBytes", replica.memoryBytes)
        json.member("vectors", replica.vectors.rows)
        writeSnapshot(replica, &json)
        json.key("partitions")
        json.beginArray()
        for (partition, position) in replica.positions.enumerated() {
            json.beginObject()
            json.member("partition", partition)
            json.member("seq", position.seq)
            json.member("head", max(status.heads[UInt32(partition)] ?? 0, position.seq))
            json.member("digest", String(position.digest, radix: 16))
            json.member("endOffset", position.endOffset)
            json.key("watermark")
            if position.watermark > 0 { json.value(Timestamp.text(position.watermark)) } else { json.null() }
            json.endObject()
        }
        json.endArray()
    }
}
