import CCurl

/// One libcurl easy handle, with the connection that it keeps.
///
/// `@unchecked Sendable`: an easy handle may be used by any thread, by one at a time; its client's lock sees to that.
@safe final class CurlHandle: @unchecked Sendable {
    struct Exchange {
        var method: String
        var url: String
        var headers: [(String, String)]
        var body: [UInt8]?
        var timeout: Duration?
        var connectTimeout: Duration
        var idleTimeout: Duration?
        var userAgent: String
    }

    struct Head {
        var status: Int
        var headers: [(name: String, value: String)]
        /// False when the reader had enough before the end.
        var isComplete: Bool
    }

    enum Verdict {
        case more, enough, tooLarge
    }

    /// What the callbacks work on during one exchange.
    fileprivate final class Sink {
        let receive: ([UInt8]) -> Verdict
        var verdict = Verdict.more
        var headers: [(name: String, value: String)] = []

        init(_ receive: @escaping ([UInt8]) -> Verdict) { self.receive = receive }

        func header(_ line: String) {
            let line = line.trimmingLineEnd
            if line.hasPrefix("HTTP/") {
                headers = []
            } else if let colon = line.firstIndex(of: ":") {
                let value = line[line.index(after: colon)...]
                headers.append((line[..<colon].lowercased(), String(value.drop { $0 == " " || $0 == "\t" })))
            }
        }
    }

    private let handle: UnsafeMutableRawPointer
    private static let isReady = curl_global_init(Int(CURL_GLOBAL_DEFAULT)) == CURLE_OK

    init() throws(HTTPClientError) {
        guard Self.isReady, let handle = unsafe curl_easy_init() else {
            throw .failed(code: -1, "libcurl has no handle")
        }
        unsafe self.handle = handle
    }

    deinit { unsafe curl_easy_cleanup(handle) }

    func perform(_ exchange: Exchange, _ receive: ([UInt8]) -> Verdict) throws(HTTPClientError) -> Head {
        let result = withoutActuallyEscaping(receive) { receive in
            perform(exchange, Sink(receive))
        }
        return try result.get()
    }

    private func perform(_ exchange: Exchange, _ sink: Sink) -> Result<Head, HTTPClientError> {
        for (name, value) in exchange.headers
        where (name + value).utf8.contains(where: { $0 == 0x0A || $0 == 0x0D || $0 == 0 }) {
            return .failure(.malformedRequest("the header \(name.debugDescription) holds a line end"))
        }
        unsafe curl_easy_reset(handle)
        var lines: UnsafeMutablePointer<curl_slist>?
        for (name, value) in exchange.headers {
            unsafe lines = curl_slist_append(lines, value.isEmpty ? "\(name);" : "\(name): \(value)")
        }
        if exchange.body != nil { unsafe lines = curl_slist_append(lines, "Expect:") }
        defer { unsafe curl_slist_free_all(lines) }
        set(CURLOPT_NOSIGNAL, 1)
        set(CURLOPT_TCP_NODELAY, 1)
        set(CURLOPT_CONNECTTIMEOUT_MS, Int(exchange.connectTimeout.nanoseconds / 1_000_000))
        if let timeout = exchange.timeout { set(CURLOPT_TIMEOUT_MS, max(1, Int(timeout.nanoseconds / 1_000_000))) }
        if let idle = exchange.idleTimeout {
            set(CURLOPT_LOW_SPEED_LIMIT, 1)
            set(CURLOPT_LOW_SPEED_TIME, max(1, Int(idle.nanoseconds / 1_000_000_000)))
        }
        set(CURLOPT_URL, exchange.url)
        set(CURLOPT_PROTOCOLS_STR, "http,https")
        set(CURLOPT_USERAGENT, exchange.userAgent)
        unsafe _ = tl_curl_set_pointer(handle, CURLOPT_HTTPHEADER, lines)
        switch exchange.method {
        case "GET": set(CURLOPT_HTTPGET, 1)
        case "HEAD": set(CURLOPT_NOBODY, 1)
        default: set(CURLOPT_CUSTOMREQUEST, exchange.method)
        }
        if let body = exchange.body {
            set(CURLOPT_POST, 1)
            _ = unsafe tl_curl_set_size(handle, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(body.count))
            // Copied by libcurl: the size must be set first.
            _ = unsafe body.withUnsafeBytes {
                unsafe tl_curl_set_pointer(
                    handle, CURLOPT_COPYPOSTFIELDS, UnsafeMutableRawPointer(mutating: $0.baseAddress))
            }
            if exchange.method != "POST" { set(CURLOPT_CUSTOMREQUEST, exchange.method) }
        }
        let box = unsafe Unmanaged.passUnretained(sink).toOpaque()
        _ = unsafe tl_curl_set_receive(handle, CURLOPT_WRITEFUNCTION, receiveBody)
        _ = unsafe tl_curl_set_pointer(handle, CURLOPT_WRITEDATA, box)
        _ = unsafe tl_curl_set_receive(handle, CURLOPT_HEADERFUNCTION, receiveHeader)
        _ = unsafe tl_curl_set_pointer(handle, CURLOPT_HEADERDATA, box)
        let code = withExtendedLifetime(sink) { unsafe curl_easy_perform(handle) }
        return conclude(code, sink)
    }

    private func conclude(_ code: CURLcode, _ sink: Sink) -> Result<Head, HTTPClientError> {
        let text = unsafe String(cString: curl_easy_strerror(code))
        switch code {
        case CURLE_OK: break
        case CURLE_WRITE_ERROR where sink.verdict == .enough: break
        case CURLE_WRITE_ERROR where sink.verdict == .tooLarge: return .failure(.answerTooLarge)
        case CURLE_URL_MALFORMAT, CURLE_UNSUPPORTED_PROTOCOL: return .failure(.malformedRequest(text))
        case CURLE_COULDNT_CONNECT, CURLE_COULDNT_RESOLVE_HOST, CURLE_COULDNT_RESOLVE_PROXY:
            return .failure(.unreachable(text))
        case CURLE_OPERATION_TIMEDOUT: return .failure(.timedOut)
        case CURLE_PARTIAL_FILE, CURLE_GOT_NOTHING, CURLE_RECV_ERROR, CURLE_SEND_ERROR:
            return .failure(.interrupted(text))
        default: return .failure(.failed(code: Int(code.rawValue), text))
        }
        var status = 0
        _ = unsafe tl_curl_status(handle, &status)
        return .success(Head(status: status, headers: sink.headers, isComplete: code == CURLE_OK))
    }

    private func set(_ option: CURLoption, _ value: Int) {
        _ = unsafe tl_curl_set_long(handle, option, value)
    }

    private func set(_ option: CURLoption, _ value: String) {
        _ = unsafe tl_curl_set_text(handle, option, value)
    }
}

private func receiveBody(
    _ bytes: UnsafeMutablePointer<CChar>?, _ size: Int, _ count: Int, _ cls: UnsafeMutableRawPointer?
) -> Int {
    guard let bytes = unsafe bytes, let cls = unsafe cls else { return 0 }
    let sink = unsafe Unmanaged<CurlHandle.Sink>.fromOpaque(cls).takeUnretainedValue()
    sink.verdict = sink.receive(unsafe Array(UnsafeRawBufferPointer(start: bytes, count: size * count)))
    return sink.verdict == .more ? size * count : 0
}

private func receiveHeader(
    _ bytes: UnsafeMutablePointer<CChar>?, _ size: Int, _ count: Int, _ cls: UnsafeMutableRawPointer?
) -> Int {
    guard let bytes = unsafe bytes, let cls = unsafe cls else { return 0 }
    let text = unsafe String(decoding: UnsafeRawBufferPointer(start: bytes, count: size * count), as: UTF8.self)
    unsafe Unmanaged<CurlHandle.Sink>.fromOpaque(cls).takeUnretainedValue().header(text)
    return size * count
}

extension String {
    fileprivate var trimmingLineEnd: Substring {
        var text = Substring(self)
        while let last = text.last, last.isNewline || last == " " || last == "\t" { text.removeLast() }
        return text
    }
}
