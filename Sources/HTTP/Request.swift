/// One request, as its handler sees it: valid during the handler only.
///
/// Nothing is copied or parsed before it is asked for. A `String` of up to 15 bytes costs no allocation, a longer one
/// costs one; the forms that take a closure cost none.
package struct Request: ~Copyable {
    package let method: Method
    let connection: Connection

    init(_ connection: Connection) {
        self.connection = connection
        method = connection.method
    }

    // MARK: Path

    /// The path as it was sent, still percent-encoded, without the query.
    package var path: String { String(decoding: connection.target[..<connection.pathLength], as: UTF8.self) }

    /// The pattern of the route that was chosen.
    package var pattern: String { connection.route?.pattern ?? "" }

    /// A parameter of the path, decoded; a name that the pattern doesn't have traps.
    package func parameter(_ name: String) -> String {
        String(decoding: connection.target[parameterRange(name)], as: UTF8.self)
    }

    /// Lends the bytes of a parameter of the path, decoded.
    package func withParameter<R>(_ name: String, _ body: (UnsafeBufferPointer<UInt8>) throws -> R) rethrows -> R {
        let range = parameterRange(name)
        return try unsafe connection.target.withUnsafeBufferPointer { bytes in
            try unsafe body(UnsafeBufferPointer(rebasing: bytes[range]))
        }
    }

    private func parameterRange(_ name: String) -> Range<Int> {
        guard let index = connection.route?.parameters.firstIndex(of: name) else {
            preconditionFailure("the pattern \(pattern) has no parameter \(name)")
        }
        return connection.parameters[index]
    }

    // MARK: Query

    /// The first value of a key of the query, decoded; nil when the key isn't there.
    package func query(_ key: StaticString) -> String? {
        connection.parseQuery()
        for item in connection.query where connection.matches(item.key, key) {
            return String(decoding: connection.target[item.value], as: UTF8.self)
        }
        return nil
    }

    /// All values of a key of the query, in order.
    package func queryAll(_ key: StaticString) -> [String] {
        connection.parseQuery()
        var values: [String] = []
        for item in connection.query where connection.matches(item.key, key) {
            values.append(String(decoding: connection.target[item.value], as: UTF8.self))
        }
        return values
    }

    /// The first value of a key of the query as a whole number; nil when the key isn't there, a 400 when it is no such
    /// number or outside of `range`.
    package func queryInt(_ key: StaticString, in range: ClosedRange<Int> = Int.min...Int.max) throws -> Int? {
        guard let text = query(key) else { return nil }
        guard let value = Int(text), range.contains(value) else {
            throw Problem.badRequest("\(key) must be a whole number from \(range.lowerBound) to \(range.upperBound)")
        }
        return value
    }

    /// The first value of a key of the query as a finite number; nil when the key isn't there, a 400 when it is none.
    package func queryDouble(_ key: StaticString) throws -> Double? {
        guard let text = query(key) else { return nil }
        guard let value = Double(text), value.isFinite else { throw Problem.badRequest("\(key) must be a number") }
        return value
    }

    /// Every key and value of the query in order, decoded.
    package var queryItems: [(key: String, value: String)] {
        connection.parseQuery()
        return connection.query.map {
            (
                String(decoding: connection.target[$0.key], as: UTF8.self),
                String(decoding: connection.target[$0.value], as: UTF8.self)
            )
        }
    }

    // MARK: Headers

    /// The first value of a header, its name taken without regard to case.
    package func header(_ name: StaticString) -> String? {
        unsafe withHeader(name) { unsafe String(decoding: $0, as: UTF8.self) }
    }

    /// Lends the bytes of the first value of a header; nil when it isn't there.
    package func withHeader<R>(_ name: StaticString, _ body: (UnsafeBufferPointer<UInt8>) throws -> R) rethrows -> R? {
        guard let value = unsafe connection.header(name) else { return nil }
        return try unsafe body(value)
    }

    // MARK: Body

    /// The size of the body in bytes.
    package var bodyCount: Int { connection.body.count }

    /// Lends the whole body, contiguous; nothing is copied.
    package func withBody<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try unsafe connection.body.withUnsafeBytes(body)
    }

    /// The body as an array of its own; shares storage with the connection until the handler returns.
    package var body: [UInt8] { connection.body }

    // MARK: Time

    /// When the request's header was complete.
    package var receivedAt: ContinuousClock.Instant { connection.receivedAt }

    /// When the answer should have been given.
    package var deadline: ContinuousClock.Instant {
        connection.receivedAt + connection.engine.configuration.requestDeadline
    }

    // MARK: Recycled storage

    /// A writer whose storage belongs to the connection: give it to `Response.json`, and no allocation is made.
    package func makeWriter() -> JSONWriter { JSONWriter(recycling: connection.takeSpareBody()) }

    /// A header block whose storage belongs to the connection.
    package func makeHeaders() -> HeaderBlock { HeaderBlock(recycling: connection.takeSpareHeaders()) }
}
