/// What a handler answers.
///
/// A whole answer (`Response(status:…)`, `.json`, `.text`, `.problem`), one that comes later from another thread
/// (`.deferred`), or a stream of events (`.stream`).
package struct Response: Sendable {
    package var status: Int
    package var contentType: ContentType?
    package var headers: HeaderBlock
    /// Whether the connection is closed after this answer.
    package var closes = false
    var content: Content

    enum Content: Sendable {
        case bytes([UInt8], recycles: Bool)
        case deferred(Deferral)
        case stream(EventStream)
    }

    package init(
        status: Int = 200, contentType: ContentType? = nil, headers: HeaderBlock = HeaderBlock(), body: [UInt8] = []
    ) {
        self.status = status
        self.contentType = contentType
        self.headers = headers
        content = .bytes(body, recycles: false)
    }

    /// A JSON answer; takes the writer's bytes without copying them.
    package static func json(
        _ writer: consuming JSONWriter, status: Int = 200, headers: HeaderBlock = HeaderBlock()
    ) -> Response {
        var response = Response(status: status, contentType: .json, headers: headers)
        let recycles = writer.recycles
        response.content = .bytes(writer.bytes, recycles: recycles)
        return response
    }

    package static func text(
        _ text: String, status: Int = 200, contentType: ContentType = .text, headers: HeaderBlock = HeaderBlock()
    ) -> Response {
        Response(status: status, contentType: contentType, headers: headers, body: Array(text.utf8))
    }

    package static func empty(status: Int = 204, headers: HeaderBlock = HeaderBlock()) -> Response {
        Response(status: status, headers: headers)
    }

    package static func problem(_ problem: Problem) -> Response { problem.response }

    /// An answer that another thread will give.
    ///
    /// The connection waits, and holds no thread. `start` runs at once on the request's thread, after the connection
    /// was set to wait; it hands the responder on and returns. If nothing has answered when `timeout` ends, or when
    /// the server stops, `fallback` is sent.
    package static func deferred(
        timeout: Duration, fallback: Response, start: @escaping @Sendable (Responder) -> Void
    ) -> Response {
        var response = Response()
        response.content = .deferred(Deferral(timeout: timeout, fallback: fallback, start: start))
        return response
    }

    /// A Server-Sent Events answer; the stream may be sent to before and after this call, from any thread.
    package static func stream(_ stream: EventStream, headers: HeaderBlock = HeaderBlock()) -> Response {
        var response = Response(contentType: .eventStream, headers: headers)
        response.content = .stream(stream)
        return response
    }

    var isWhole: Bool {
        if case .bytes = content { true } else { false }
    }
}

/// An answer that is still to be given, as a handler describes it.
final class Deferral: Sendable {
    let timeout: Duration
    let fallback: Response
    let start: @Sendable (Responder) -> Void

    init(timeout: Duration, fallback: Response, start: @escaping @Sendable (Responder) -> Void) {
        precondition(fallback.isWhole, "a fallback must be a whole answer")
        self.timeout = timeout
        self.fallback = fallback
        self.start = start
    }
}

/// A media type, known at compile time.
package struct ContentType: Sendable, Equatable {
    let text: StaticString

    package init(_ text: StaticString) { self.text = text }

    package static func == (a: ContentType, b: ContentType) -> Bool { a.text.description == b.text.description }

    package static let json = ContentType("application/json")
    package static let ndjson = ContentType("application/x-ndjson")
    package static let problem = ContentType("application/problem+json")
    package static let text = ContentType("text/plain; charset=utf-8")
    package static let html = ContentType("text/html; charset=utf-8")
    package static let css = ContentType("text/css; charset=utf-8")
    package static let javascript = ContentType("text/javascript; charset=utf-8")
    package static let svg = ContentType("image/svg+xml")
    package static let png = ContentType("image/png")
    package static let octets = ContentType("application/octet-stream")
    package static let csv = ContentType("text/csv; charset=utf-8")
    package static let yaml = ContentType("application/yaml")
    package static let eventStream = ContentType("text/event-stream; charset=utf-8")
    package static let prometheus = ContentType("text/plain; version=0.0.4; charset=utf-8")
}
