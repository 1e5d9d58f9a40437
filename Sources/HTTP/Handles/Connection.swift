import CMicroHTTPD
import Glibc
import Synchronization

/// One TCP connection: what is kept between the library's calls, and storage that its requests use in turn.
///
/// `@unchecked Sendable`: libmicrohttpd calls back for a connection from the one thread of its daemon, and all plain
/// properties belong to that thread. The clock's thread uses `stage`, `deadline` and `descriptor` alone, the latter
/// under the registry's lock, which the closing callback takes before the library closes the socket.
@safe final class Connection: @unchecked Sendable {
    enum Stage: UInt8, AtomicRepresentable {
        case header, body, answering, refused, killed
    }

    struct QueryItem {
        var key: Range<Int>
        var value: Range<Int>
    }

    let engine: Engine
    private let daemon: Daemon
    let descriptor: Int32
    let stage = Atomic<Stage>(.header)
    /// When the clock's thread closes the connection, in monotonic nanoseconds; 0 is never.
    let deadline: Atomic<UInt64>

    // Of the request that is being read or answered.
    var handle: OpaquePointer?
    var isBegun = false
    var method = Method.other
    /// The request's target; parameters and query are decoded in place.
    var target: [UInt8] = []
    var targetAddress = 0
    var pathLength = 0
    var queryStart = -1
    var isQueryParsed = false
    var query: [QueryItem] = []
    var parameters: [Range<Int>] = []
    var match = Router.Match.notFound
    var body: [UInt8] = []
    var bodyBytesMax = 0
    var discarded = 0
    var receivedNanoseconds: UInt64 = 0
    var waiter: Waiter?

    // Of the answer: what the library still reads, and what goes back for the next one.
    var sending: [UInt8] = []
    private var sendingRecycles = false
    private var spareBody: [UInt8] = []
    private var spareHeaders: [UInt8] = []
    private var block: [UInt8] = []

    private static let keptBytesMax = 64 << 10

    init(daemon: Daemon, descriptor: Int32) {
        self.daemon = daemon
        engine = daemon.engine
        self.descriptor = descriptor
        deadline = Atomic(Monotonic.now + daemon.engine.configuration.headerDeadline.nanoseconds)
    }

    var route: Router.Route? {
        if case .route(let index) = match { engine.router.routes[index] } else { nil }
    }

    var receivedAt: ContinuousClock.Instant {
        ContinuousClock.now - .nanoseconds(Int64(clamping: Monotonic.now &- receivedNanoseconds))
    }

    // MARK: Life of a request

    /// Keeps the request line's target, before the library changes it.
    func keepTarget(_ text: UnsafePointer<CChar>) {
        let count = unsafe strlen(text)
        target.removeAll(keepingCapacity: true)
        unsafe target.append(contentsOf: UnsafeRawBufferPointer(start: text, count: count))
        targetAddress = Int(bitPattern: text)
        isBegun = false
    }

    /// Makes the connection ready for its next request.
    func finish() {
        if sendingRecycles, sending.capacity <= Self.keptBytesMax {
            swap(&sending, &spareBody)
            spareBody.removeAll(keepingCapacity: true)
        }
        sending = []
        sendingRecycles = false
        // Emptied only here, when nobody else holds them: emptying a shared array would allocate another.
        if spareHeaders.capacity > 4096 { spareHeaders = [] } else { spareHeaders.removeAll(keepingCapacity: true) }
        if body.capacity > Self.keptBytesMax { body = [] } else { body.removeAll(keepingCapacity: true) }
        waiter = nil
        unsafe handle = nil
        isBegun = false
    }

    /// Moves on, unless the clock's thread has closed the connection meanwhile.
    func advance(to next: Stage, deadline time: UInt64) -> Bool {
        if stage.exchange(next, ordering: .acquiringAndReleasing) == .killed {
            stage.store(.killed, ordering: .releasing)
            return false
        }
        deadline.store(time, ordering: .relaxed)
        return true
    }

    /// Whether the client has closed its side; asked of a suspended connection, which nobody else watches.
    var isPeerGone: Bool {
        let flags = Int32(MSG_PEEK) | Int32(MSG_DONTWAIT)
        return daemon.withOpen(self) { descriptor in
            var byte: UInt8 = 0
            let count = unsafe recv(descriptor, &byte, 1, flags)
            return count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)
        } ?? true
    }

    // MARK: Reading

    func splitTarget() -> Bool {
        stripAuthority()
        queryStart = target.firstIndex(of: UInt8(ascii: "?")) ?? -1
        pathLength = queryStart < 0 ? target.count : queryStart
        isQueryParsed = false
        query.removeAll(keepingCapacity: true)
        return PercentCoding.isWellFormed(target, 0..<target.count)
    }

    /// `GET http://host/path` is what a proxy is asked; a server must take it as `GET /path`.
    private func stripAuthority() {
        guard let first = target.first, first != UInt8(ascii: "/"), target.starts(with: "http".utf8) else { return }
        guard let colon = target.firstIndex(of: UInt8(ascii: ":")), target.count > colon + 3,
            target[colon + 1] == UInt8(ascii: "/"), target[colon + 2] == UInt8(ascii: "/")
        else { return }
        let slash = target[(colon + 3)...].firstIndex(of: UInt8(ascii: "/")) ?? target.count
        target.removeSubrange(..<slash)
        if target.isEmpty { target.append(UInt8(ascii: "/")) }
    }

    /// Decodes the path's parameters where they stand; false when one holds a dot segment.
    func decodeParameters() -> Bool {
        for index in parameters.indices {
            guard let range = PercentCoding.decode(&target, parameters[index], plusIsSpace: false) else { return false }
            parameters[index] = range
            if hasDotSegment(range) { return false }
        }
        return true
    }

    /// Whether a segment of the text is `.` or `..`.
    private func hasDotSegment(_ range: Range<Int>) -> Bool {
        var dots = 0
        var others = 0
        for index in range {
            switch target[index] {
            case UInt8(ascii: "/"):
                if others == 0, dots == 1 || dots == 2 { return true }
                dots = 0
                others = 0
            case UInt8(ascii: "."): dots += 1
            default: others += 1
            }
        }
        return others == 0 && (dots == 1 || dots == 2)
    }

    func parseQuery() {
        if isQueryParsed { return }
        isQueryParsed = true
        guard queryStart >= 0 else { return }
        var start = queryStart + 1
        while start < target.count {
            var end = start
            var equals = -1
            while end < target.count, target[end] != UInt8(ascii: "&") {
                if equals < 0, target[end] == UInt8(ascii: "=") { equals = end }
                end += 1
            }
            if end > start {
                let keyEnd = equals < 0 ? end : equals
                let valueStart = equals < 0 ? end : equals + 1
                // Well-formed escapes were checked when the request began.
                let key = PercentCoding.decode(&target, start..<keyEnd, plusIsSpace: true) ?? start..<start
                let value = PercentCoding.decode(&target, valueStart..<end, plusIsSpace: true) ?? end..<end
                query.append(QueryItem(key: key, value: value))
            }
            start = end + 1
        }
    }

    func matches(_ range: Range<Int>, _ key: StaticString) -> Bool {
        guard range.count == key.utf8CodeUnitCount else { return false }
        return unsafe target.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { return range.isEmpty }
            return unsafe memcmp(base + range.lowerBound, key.utf8Start, range.count) == 0
        }
    }

    func header(_ name: StaticString) -> UnsafeBufferPointer<UInt8>? {
        guard let handle = unsafe handle else { return nil }
        var value: UnsafePointer<CChar>?
        var size = 0
        let found = unsafe name.utf8Start.withMemoryRebound(to: CChar.self, capacity: name.utf8CodeUnitCount) { key in
            unsafe MHD_lookup_connection_value_n(
                handle, .HEADER_KIND, key, name.utf8CodeUnitCount, &value, &size)
        }
        guard found == .YES, let start = unsafe value else { return nil }
        return unsafe UnsafeBufferPointer(
            start: UnsafeRawPointer(start).assumingMemoryBound(to: UInt8.self), count: size)
    }

    // MARK: Answering

    func takeSpareBody() -> [UInt8] {
        var taken: [UInt8] = []
        swap(&taken, &spareBody)
        return taken
    }

    func takeSpareHeaders() -> [UInt8] {
        var taken: [UInt8] = []
        swap(&taken, &spareHeaders)
        return taken
    }

    /// Gives a whole answer to the library, which reads `sending` until the request is complete.
    func queue(_ response: consuming Response, bytes: consuming [UInt8], recycles: Bool, on handle: OpaquePointer)
        -> MHD_Result
    {
        render(response)
        if response.headers.recycles { spareHeaders = response.headers.bytes }
        sending = bytes
        sendingRecycles = recycles
        let closes = response.closes || engine.draining.load(ordering: .relaxed)
        // An array's elements stay where they are while the array is alive and unchanged: until `finish()`.
        return unsafe sending.withUnsafeBytes { body in
            unsafe block.withUnsafeBytes { block in
                unsafe tl_mhd_queue(
                    handle, UInt32(response.status), body.baseAddress, body.count, block.baseAddress, block.count,
                    closes)
            }
        }
    }

    func queue(_ stream: EventStream, _ response: Response, on handle: OpaquePointer) -> MHD_Result {
        var response = response
        response.headers.append("Cache-Control", "no-store")
        render(response)
        return unsafe block.withUnsafeBytes { block in
            unsafe tl_mhd_queue_stream(
                handle, UInt32(response.status), readStream, Unmanaged.passRetained(stream).toOpaque(), releaseStream,
                block.baseAddress, block.count)
        }
    }

    /// Renders the header block; without line end at its close, and without what the library adds itself.
    private func render(_ response: borrowing Response) {
        block.removeAll(keepingCapacity: true)
        block.append(text: "nosniff")
        if let type = response.contentType {
            block.append(text: "\r\nContent-Type: ")
            block.append(text: type.text)
        }
        append(engine.configuration.headers.bytes)
        append(response.headers.bytes)
        if let cors = engine.router.cors, let origin = unsafe header("Origin") {
            unsafe cors.append(to: &block, origin: origin)
        }
    }

    private func append(_ lines: [UInt8]) {
        if lines.isEmpty { return }
        block.append(text: "\r\n")
        block.append(contentsOf: lines)
    }

    /// Writes a last answer past the library, ends our side of the connection, and lets what still comes be discarded.
    func refuse(_ status: Int, _ detail: String) {
        stage.store(.refused, ordering: .releasing)
        sendRaw(status, detail)
        shutdown(descriptor, Int32(SHUT_WR))
    }

    /// From the clock's thread, under the registry's lock.
    func expire(now: UInt64) -> Bool {
        let limit = deadline.load(ordering: .relaxed)
        if limit == 0 || now < limit { return false }
        let old = stage.exchange(.killed, ordering: .acquiringAndReleasing)
        if old == .killed { return false }
        if old == .header || old == .body { sendRaw(408, "the request was not complete in time") }
        shutdown(descriptor, Int32(SHUT_RDWR))
        return true
    }

    private func sendRaw(_ status: Int, _ detail: String) {
        let problem = Problem(status: status, detail: detail)
        var json = JSONWriter()
        problem.write(to: &json)
        var bytes: [UInt8] = []
        bytes.append(
            text: "HTTP/1.1 \(status) \(problem.title)\r\nContent-Type: application/problem+json\r\n"
                + "Content-Length: \(json.bytes.count)\r\nConnection: close\r\n"
                + (status == 503 ? "Retry-After: 1\r\n" : "") + "\r\n")
        bytes.append(contentsOf: json.bytes)
        _ = unsafe bytes.withUnsafeBytes {
            unsafe send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
        }
    }
}

extension CORS {
    func append(to block: inout [UInt8], origin: UnsafeBufferPointer<UInt8>) {
        if let origins {
            guard origins.contains(where: { unsafe $0.utf8.elementsEqual(origin) }) else { return }
            block.append(text: "\r\nVary: Origin\r\nAccess-Control-Allow-Origin: ")
            unsafe block.append(contentsOf: origin)
        } else {
            block.append(text: "\r\nAccess-Control-Allow-Origin: *")
        }
        if !exposedHeaders.isEmpty {
            block.append(text: "\r\nAccess-Control-Expose-Headers: " + exposedHeaders.joined(separator: ", "))
        }
    }

    /// The lines that answer a preflight, beside those of every answer.
    func preflight(allow: String) -> HeaderBlock {
        var headers = HeaderBlock()
        headers.append("Access-Control-Allow-Methods", allow)
        headers.append("Access-Control-Allow-Headers", requestHeaders.joined(separator: ", "))
        headers.append("Access-Control-Max-Age", maxAgeSeconds)
        return headers
    }
}
