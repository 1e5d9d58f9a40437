/// What answers a request: runs to its end on the thread that read it.
///
/// A thrown `Problem` becomes the answer; any other error a 500 that says nothing of its cause, counted.
package typealias Handler = @Sendable (borrowing Request) throws -> Response

/// Methods and paths, and who answers them.
///
/// A pattern is made of segments: literal (`/v1/events`), parameter (`{id}`, one segment, never empty) or, at the end,
/// the rest of the path (`{path...}`, perhaps empty). A literal wins over a parameter, a parameter over a rest.
/// Segments are split before they are percent-decoded, so an escaped slash belongs to its parameter.
package struct Router: Sendable {
    /// Cross-origin requests: nil answers none of them.
    package var cors: CORS?
    private(set) var routes: [Route] = []
    private var nodes: [Node] = [Node()]
    private var endpoints: [Endpoint] = []

    struct Route: Sendable {
        let method: Method
        let pattern: String
        let parameters: [String]
        let bodyBytesMax: Int?
        let handler: Handler
    }

    struct Endpoint: Sendable {
        /// The route of each method, or −1.
        var routes = [Int](repeating: -1, count: Method.allCases.count)

        var allow: String {
            var names = Method.allCases.filter { routes[Int($0.rawValue)] >= 0 }.map(\.name)
            if routes[Int(Method.get.rawValue)] >= 0, routes[Int(Method.head.rawValue)] < 0 { names.append("HEAD") }
            if routes[Int(Method.options.rawValue)] < 0 { names.append("OPTIONS") }
            return names.sorted().joined(separator: ", ")
        }
    }

    private struct Node: Sendable {
        var literals: [(text: [UInt8], node: Int)] = []
        var parameter = -1
        var rest = -1
        var endpoint = -1
    }

    package init() {}

    package mutating func get(_ pattern: String, _ handler: @escaping Handler) { on(.get, pattern, handler) }

    package mutating func post(_ pattern: String, bodyBytesMax: Int? = nil, _ handler: @escaping Handler) {
        on(.post, pattern, bodyBytesMax: bodyBytesMax, handler)
    }

    /// Adds a route; a second one for the same method and pattern traps.
    ///
    /// - Parameter bodyBytesMax: the largest body of this route, in bytes; nil means the server's own limit.
    package mutating func on(
        _ method: Method, _ pattern: String, bodyBytesMax: Int? = nil, _ handler: @escaping Handler
    ) {
        precondition(pattern.first == "/", "a pattern starts with a slash")
        var node = 0
        var parameters: [String] = []
        let segments = pattern.dropFirst().split(separator: "/", omittingEmptySubsequences: false)
        for (index, segment) in segments.enumerated() {
            if segment.hasPrefix("{"), segment.hasSuffix("...}") {
                precondition(index == segments.count - 1, "the rest of a path stands at its end")
                parameters.append(String(segment.dropFirst().dropLast(4)))
                node = child(of: node, \.rest)
            } else if segment.hasPrefix("{"), segment.hasSuffix("}") {
                parameters.append(String(segment.dropFirst().dropLast()))
                node = child(of: node, \.parameter)
            } else {
                node = literal(Array(segment.utf8), under: node)
            }
        }
        if nodes[node].endpoint < 0 {
            nodes[node].endpoint = endpoints.count
            endpoints.append(Endpoint())
        }
        let endpoint = nodes[node].endpoint
        precondition(endpoints[endpoint].routes[Int(method.rawValue)] < 0, "\(method.name) \(pattern) is there already")
        endpoints[endpoint].routes[Int(method.rawValue)] = routes.count
        routes.append(
            Route(
                method: method, pattern: pattern, parameters: parameters, bodyBytesMax: bodyBytesMax, handler: handler))
    }

    // MARK: Matching

    enum Match {
        case route(Int)
        case notFound
        case notAllowed(endpoint: Int)
        case options(endpoint: Int)
    }

    /// Finds the route of a path and writes the ranges of its parameters, still encoded.
    func match(_ method: Method, _ path: borrowing [UInt8], length: Int, parameters: inout [Range<Int>]) -> Match {
        parameters.removeAll(keepingCapacity: true)
        guard length > 0, path[0] == UInt8(ascii: "/") else { return .notFound }
        guard let endpoint = find(path, from: 1, to: length, node: 0, parameters: &parameters) else { return .notFound }
        let route = endpoints[endpoint].routes[Int(method.rawValue)]
        if route >= 0 { return .route(route) }
        if method == .head, endpoints[endpoint].routes[Int(Method.get.rawValue)] >= 0 {
            return .route(endpoints[endpoint].routes[Int(Method.get.rawValue)])
        }
        return method == .options ? .options(endpoint: endpoint) : .notAllowed(endpoint: endpoint)
    }

    func allow(_ endpoint: Int) -> String { endpoints[endpoint].allow }

    private func find(
        _ path: borrowing [UInt8], from start: Int, to length: Int, node: Int, parameters: inout [Range<Int>]
    ) -> Int? {
        if start > length { return nodes[node].endpoint >= 0 ? nodes[node].endpoint : nil }
        var end = start
        while end < length, path[end] != UInt8(ascii: "/") { end += 1 }
        for index in nodes[node].literals.indices
        where Self.segment(path, start..<end, equals: nodes[node].literals[index].text) {
            let next = nodes[node].literals[index].node
            if let found = find(path, from: end + 1, to: length, node: next, parameters: &parameters) { return found }
        }
        let count = parameters.count
        if nodes[node].parameter >= 0, end > start {
            parameters.append(start..<end)
            let next = nodes[node].parameter
            if let found = find(path, from: end + 1, to: length, node: next, parameters: &parameters) { return found }
            parameters.removeLast(parameters.count - count)
        }
        if nodes[node].rest >= 0 {
            parameters.append(start..<length)
            return nodes[nodes[node].rest].endpoint
        }
        return nil
    }

    /// Compares a segment, decoding it on the way.
    private static func segment(_ path: borrowing [UInt8], _ range: Range<Int>, equals text: [UInt8]) -> Bool {
        var read = range.lowerBound
        for expected in text {
            guard read < range.upperBound else { return false }
            var byte = path[read]
            if byte == UInt8(ascii: "%"), read + 2 < range.upperBound, let high = PercentCoding.nibble(path[read + 1]),
                let low = PercentCoding.nibble(path[read + 2])
            {
                byte = high << 4 | low
                read += 2
            }
            if byte != expected { return false }
            read += 1
        }
        return read == range.upperBound
    }

    private mutating func child(of node: Int, _ kind: WritableKeyPath<Node, Int>) -> Int {
        if nodes[node][keyPath: kind] < 0 {
            nodes.append(Node())
            nodes[node][keyPath: kind] = nodes.count - 1
        }
        return nodes[node][keyPath: kind]
    }

    private mutating func literal(_ text: [UInt8], under node: Int) -> Int {
        if let known = nodes[node].literals.first(where: { $0.text == text }) { return known.node }
        nodes.append(Node())
        nodes[node].literals.append((text, nodes.count - 1))
        return nodes.count - 1
    }
}

/// Who may read answers from another origin's page, and what they may send.
package struct CORS: Sendable {
    /// Origins as browsers send them (`https://example.org`), or nil for any.
    package var origins: [String]?
    /// Request headers that a page may set.
    package var requestHeaders: [String]
    /// Answer headers that a page may read.
    package var exposedHeaders: [String]
    /// How long a browser may remember a preflight's answer, in seconds.
    package var maxAgeSeconds: Int

    package init(
        origins: [String]? = nil, requestHeaders: [String] = ["Authorization", "Content-Type"],
        exposedHeaders: [String] = [], maxAgeSeconds: Int = 600
    ) {
        self.origins = origins
        self.requestHeaders = requestHeaders
        self.exposedHeaders = exposedHeaders
        self.maxAgeSeconds = maxAgeSeconds
    }
}
