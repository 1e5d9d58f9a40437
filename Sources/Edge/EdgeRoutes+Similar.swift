import Changes
import Features
import Foundation
import HTTP
import Storage
import Vectors

/// `/v1/similar`: the nearest neighbours of an event, of a vector, or of an event that nobody has sent.
extension EdgeRoutes {
    func similar(_ request: borrowing Request, _ replica: Replica, _ json: inout JSONWriter) throws {
        guard let id = request.query("id") else { throw Problem.badRequest("id is needed: /v1/similar?id=EVENT&k=10") }
        let k = try request.queryInt("k", in: 1...1000) ?? 10
        let tenant = try tenant(request, replica)
        let (key, vector) = try withRow(replica, tenant: tenant, id: id) { key, row in
            (key, unsafe Self.floats(row.vector))
        }
        guard !vector.isEmpty else { throw Problem(status: 409, detail: "event `\(id)` has no vector") }
        try neighbours(of: vector, k: k, tenant: tenant, excluding: (id, key.place), replica, request, &json)
    }

    private static func floats(_ bytes: UnsafeRawBufferPointer) -> [Float] {
        (0..<bytes.count / 4).map { unsafe bytes.loadUnaligned(fromByteOffset: $0 * 4, as: Float.self) }
    }

    func similarTo(_ request: borrowing Request, _ replica: Replica, _ json: inout JSONWriter) throws {
        let tenant = try tenant(request, replica)
        let body = try Self.object(request)
        let k = (body["k"] as? Int) ?? 10
        guard (1...1000).contains(k) else { throw Problem.badRequest("k must be from 1 to 1000") }
        if let values = body["vector"] as? [Any] {
            let vector = values.compactMap { ($0 as? NSNumber)?.floatValue }
            guard vector.count == values.count, vector.count == replica.vectors.dimensions else {
                throw Problem.badRequest("vector: \(replica.vectors.dimensions) numbers are needed")
            }
            return try neighbours(of: vector, k: k, tenant: tenant, excluding: nil, replica, request, &json)
        }
        guard let event = body["event"] as? [String: Any] else {
            throw Problem.badRequest("the body holds `vector`, a list of numbers, or `event`, an object")
        }
        let bytes = try JSONSerialization.data(withJSONObject: event)
        let provisional = try preview(replica, bytes)
        guard !provisional.vector.isEmpty else {
            throw Problem(status: 409, detail: "this pipeline's model gives no vector")
        }
        try neighbours(
            of: provisional.vector, k: k, tenant: provisional.tenant, excluding: nil, replica, request, &json)
    }

    /// The body as a JSON object; this path is a person's or a service's question, not the event path.
    private static func object(_ request: borrowing Request) throws -> [String: Any] {
        let body = Data(request.body)
        guard let object = (try? JSONSerialization.jsonObject(with: body)) as? [String: Any] else {
            throw Problem.badRequest("the body must be a JSON object")
        }
        return object
    }

    private func neighbours(
        of vector: [Float], k: Int, tenant: Int, excluding own: (id: String, place: UInt64)?, _ replica: Replica,
        _ request: borrowing Request,
        _ json: inout JSONWriter
    ) throws {
        let filter = try filter(request)
        let effort = try effort(request)
        let searcher = searchers.take()
        defer { searchers.give(back: searcher) }
        do {
            try unsafe vector.withUnsafeBufferPointer { vector throws(VectorQueryError) in
                // One more than asked for: an event is its own nearest neighbour.
                try unsafe replica.vectors.collection(tenant).search(
                    vector, k: own == nil ? k : k + 1, filter: filter, effort: effort, with: &searcher.room)
            }
        } catch .zero {
            throw Problem.badRequest("a vector of zero length has no neighbours")
        } catch {
            throw Problem.badRequest("the vector is none: \(error)")
        }
        let name = replica.pipeline.tenants[tenant]
        json.beginObject()
        if let own { json.member("id", own.id) }
        json.key("neighbours")
        json.beginArray()
        var count = 0
        for neighbour in searcher.room.neighbours where count < k && neighbour.row.id != own?.place {
            let key = EventKey(time: neighbour.row.time, place: neighbour.row.id)
            try unsafe key.withRow(tenant: name) {
                _ = try unsafe replica.view.store.get($0) { bytes in
                    guard let row = unsafe EventRow(bytes) else { return }
                    // Replaced since it was looked up: a newer version of itself.
                    if let own, unsafe row.id.elementsEqual(own.id.utf8) { return }
                    write(neighbour, row, replica, &json)
                    count += 1
                }
            }
        }
        json.endArray()
        json.endObject()
    }

    /// Which neighbours may come: `flagged`, `score_min`, `score_max`, `since`, `until`, `entity`.
    private func filter(_ request: borrowing Request) throws -> VectorFilter {
        var filter = VectorFilter()
        if request.query("flagged") == "true" { filter.label = ReplicaVectors.label(flagged: .flagged) }
        let low = try request.queryDouble("score_min").map { Float($0) } ?? -.infinity
        let high = try request.queryDouble("score_max").map { Float($0) } ?? .infinity
        guard low <= high else { throw Problem.badRequest("score_min is above score_max") }
        filter.scores = low...high
        let since = try time(request, "since") ?? .min
        let until = try time(request, "until") ?? .max
        guard since <= until else { throw Problem.badRequest("since is after until") }
        filter.times = since...until
        if var entity = request.query("entity") {
            filter.entity = entity.withUTF8 { unsafe ReplicaVectors.entity(UnsafeRawBufferPointer($0)) }
        }
        return filter
    }

    private func time(_ request: borrowing Request, _ name: StaticString) throws -> Int64? {
        guard let text = request.query(name) else { return nil }
        guard let time = Timestamp.parse(text) else {
            throw Problem.badRequest("\(name) is a time such as 2026-01-31T12:00:00Z")
        }
        return time
    }

    /// `recall`, how many of the true neighbours are asked for; `exact` compares with everything.
    private func effort(_ request: borrowing Request) throws -> SearchEffort {
        guard let text = request.query("recall") else { return .recall(0.99) }
        if text == "exact" { return .exact }
        guard let recall = Float(text), recall > 0, recall <= 1 else {
            throw Problem.badRequest("recall is a number up to 1, such as .95, or `exact`")
        }
        return .recall(recall)
    }

    private func write(_ neighbour: Neighbour, _ row: EventRow, _ replica: Replica, _ json: inout JSONWriter) {
        json.beginObject()
        json.key("id")
        unsafe json.value(utf8: row.id)
        json.member("distance", neighbour.distance)
        json.member("score", row.record.score)
        json.member("flagged", row.record.flags.contains(.flagged))
        json.member("time", time: row.record.eventTime)
        EventJSON.writeFields(row.record, replica.pipeline, to: &json)
        json.endObject()
    }
}
