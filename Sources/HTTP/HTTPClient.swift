import Synchronization

/// A blocking client: one connection that is kept and used again, one request at a time.
///
/// For command lines, tests and polling. Calls from several threads take turns. Redirects aren't followed.
package final class HTTPClient: Sendable {
    package struct Configuration: Sendable {
        /// The time to connect in.
        package var connectTimeout: Duration = .seconds(5)
        /// The time for a whole exchange; streams have none but `idleTimeout`.
        package var timeout: Duration = .seconds(30)
        /// The time without a byte after which a stream is given up.
        package var idleTimeout: Duration = .seconds(60)
        /// The largest answer in bytes; a stream's is unlimited, its longest line is bounded by this.
        package var answerBytesMax = 64 << 20
        package var userAgent = "tideline"

        package init() {}
    }

    /// A whole answer.
    package struct Answer: Sendable {
        package let status: Int
        /// Names in lower case, in the order in which they came.
        package let headers: [(name: String, value: String)]
        package let body: [UInt8]

        package var text: String { String(decoding: body, as: UTF8.self) }

        /// The first value of a header; its name in any case.
        package func header(_ name: String) -> String? {
            let name = name.lowercased()
            return headers.first { $0.name == name }?.value
        }
    }

    package let configuration: Configuration
    private let handle: Mutex<CurlHandle?>

    package init(configuration: Configuration = Configuration()) {
        self.configuration = configuration
        handle = Mutex(nil)
    }

    package func get(_ url: String, headers: [(String, String)] = []) throws(HTTPClientError) -> Answer {
        try send("GET", url, headers: headers)
    }

    package func post(
        _ url: String, body: [UInt8], contentType: String = "application/json", headers: [(String, String)] = []
    ) throws(HTTPClientError) -> Answer {
        try send("POST", url, headers: headers + [("Content-Type", contentType)], body: body)
    }

    /// Sends a request and waits for its whole answer; any status is an answer, not an error.
    package func send(
        _ method: String, _ url: String, headers: [(String, String)] = [], body: [UInt8]? = nil,
        timeout: Duration? = nil
    ) throws(HTTPClientError) -> Answer {
        var received: [UInt8] = []
        let limit = configuration.answerBytesMax
        let exchange = CurlHandle.Exchange(
            method: method, url: url, headers: headers, body: body, timeout: timeout ?? configuration.timeout,
            connectTimeout: configuration.connectTimeout, idleTimeout: nil, userAgent: configuration.userAgent)
        let head = try perform(exchange) { bytes in
            if received.count + bytes.count > limit { return .tooLarge }
            received.append(contentsOf: bytes)
            return .more
        }
        return Answer(status: head.status, headers: head.headers, body: received)
    }

    /// Reads an answer line by line while it arrives, without line ends; ends when `onLine` returns false.
    ///
    /// - Returns: the answer's status. Lines are handed over whatever the status is.
    @discardableResult
    package func lines(
        _ url: String, headers: [(String, String)] = [], _ onLine: (String) -> Bool
    ) throws(HTTPClientError) -> Int {
        var line: [UInt8] = []
        let limit = configuration.answerBytesMax
        let exchange = CurlHandle.Exchange(
            method: "GET", url: url, headers: headers, body: nil, timeout: nil,
            connectTimeout: configuration.connectTimeout, idleTimeout: configuration.idleTimeout,
            userAgent: configuration.userAgent)
        let head = try perform(exchange) { bytes in
            for byte in bytes {
                if byte == 0x0A {
                    if line.last == 0x0D { line.removeLast() }
                    if !onLine(String(decoding: line, as: UTF8.self)) { return .enough }
                    line.removeAll(keepingCapacity: true)
                } else {
                    if line.count >= limit { return .tooLarge }
                    line.append(byte)
                }
            }
            return .more
        }
        if head.isComplete, !line.isEmpty { _ = onLine(String(decoding: line, as: UTF8.self)) }
        return head.status
    }

    /// Reads a stream of Server-Sent Events; ends when `onEvent` returns false. Comments are skipped.
    @discardableResult
    package func events(
        _ url: String, headers: [(String, String)] = [], _ onEvent: (ServerSentEvent) -> Bool
    ) throws(HTTPClientError) -> Int {
        var event = ServerSentEvent()
        var hasData = false
        return try lines(url, headers: headers + [("Accept", "text/event-stream")]) { line in
            if line.isEmpty {
                defer {
                    event.name = nil
                    event.data = ""
                    hasData = false
                }
                return hasData ? onEvent(event) : true
            }
            let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            var value = parts.count > 1 ? String(parts[1]) : ""
            if value.first == " " { value.removeFirst() }
            switch parts[0] {
            case "event": event.name = value
            case "id": event.id = value
            case "data":
                event.data += hasData ? "\n" + value : value
                hasData = true
            default: break
            }
            return true
        }
    }

    private func perform(
        _ exchange: CurlHandle.Exchange, _ receive: ([UInt8]) -> CurlHandle.Verdict
    ) throws(HTTPClientError) -> CurlHandle.Head {
        let result = handle.withLock { kept -> Result<CurlHandle.Head, HTTPClientError> in
            do throws(HTTPClientError) {
                let handle = if let kept { kept } else { try CurlHandle() }
                kept = handle
                return .success(try handle.perform(exchange, receive))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }
}

/// One event of a stream.
package struct ServerSentEvent: Sendable, Equatable {
    package var name: String?
    /// The last id that was sent, with this event or an earlier one.
    package var id: String?
    package var data = ""

    package init(name: String? = nil, id: String? = nil, data: String = "") {
        self.name = name
        self.id = id
        self.data = data
    }
}

/// Why there is no answer.
package enum HTTPClientError: Error, Sendable, Equatable {
    /// The URL is none, or not http or https; or a header holds a line end.
    case malformedRequest(String)
    /// Nobody listens, the name isn't known, or the network is away.
    case unreachable(String)
    /// The time was up.
    case timedOut
    /// The answer, or one line of it, is larger than the limit.
    case answerTooLarge
    /// The connection broke before the answer was whole.
    case interrupted(String)
    /// Another failure of libcurl, with its number.
    case failed(code: Int, String)

    /// Whether the same request may well succeed later.
    package var isRetriable: Bool {
        switch self {
        case .unreachable, .timedOut, .interrupted: true
        case .malformedRequest, .answerTooLarge, .failed: false
        }
    }
}
