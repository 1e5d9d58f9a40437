import HTTP
import Testing

@Suite(.timeLimit(.minutes(5))) struct ClientTests {
    private func routes(_ router: inout Router) {
        router.on(.put, "/echo") { request in
            .text(
                (request.header("X-Name") ?? "") + ":" + String(decoding: request.body, as: UTF8.self),
                headers: ["X-Back": "yes"])
        }
        router.get("/large") { _ in Response(contentType: .octets, body: [UInt8](repeating: 7, count: 1 << 20)) }
        router.get("/slow") { _ in .deferred(timeout: .seconds(3), fallback: .empty()) { _ in } }
        router.get("/lines") { _ in .text("one\ntwo\r\n\nlast") }
    }

    @Test func methodsHeadersAndBodies() throws {
        try withServer(routes: routes) { (port, _) throws in
            let client = HTTPClient()
            let answer = try client.send(
                "PUT", "http://127.0.0.1:\(port)/echo", headers: [("X-Name", "n"), ("X-Empty", "")],
                body: Array("body".utf8))
            #expect(answer.status == 200 && answer.text == "n:body")
            #expect(answer.header("x-back") == "yes")
            #expect(try client.get("http://127.0.0.1:\(port)/large").body.count == 1 << 20)
        }
    }

    @Test func oneConnectionServesManyRequests() throws {
        try withServer(routes: routes) { (port, server) throws in
            let client = HTTPClient()
            for _ in 0..<20 { _ = try client.get("http://127.0.0.1:\(port)/lines") }
            #expect(server.metric("http_connections") == 1)
        }
    }

    @Test func errorsAreTyped() throws {
        try withServer(routes: routes) { (port, _) throws in
            var configuration = HTTPClient.Configuration()
            configuration.answerBytesMax = 1000
            configuration.timeout = .milliseconds(300)
            let client = HTTPClient(configuration: configuration)
            let base = "http://127.0.0.1:\(port)"
            #expect(throws: HTTPClientError.answerTooLarge) { try client.get(base + "/large") }
            #expect(throws: HTTPClientError.timedOut) { try client.get(base + "/slow") }
            #expect(throws: HTTPClientError.self) { try client.get(base + "/lines", headers: [("A", "b\r\nC: d")]) }
            #expect(try client.get(base + "/lines").status == 200)
        }
        let closed = try withServer(routes: routes) { (port, _) in port }
        do {
            _ = try HTTPClient().get("http://127.0.0.1:\(closed)/")
            Issue.record("nobody listens there")
        } catch {
            #expect(error.isRetriable)
        }
        #expect(throws: HTTPClientError.self) { try HTTPClient().get("file:///etc/hostname") }
    }

    @Test func linesUntilEnough() throws {
        try withServer(routes: routes) { (port, _) throws in
            let client = HTTPClient()
            var lines: [String] = []
            try client.lines("http://127.0.0.1:\(port)/lines") {
                lines.append($0); return true
            }
            #expect(lines == ["one", "two", "", "last"])
            lines = []
            try client.lines("http://127.0.0.1:\(port)/lines") {
                lines.append($0); return lines.count < 2
            }
            #expect(lines == ["one", "two"])
        }
    }
}
