import Glibc
import HTTP
import Testing

/// Each guard of the server, by a client that writes its own bytes.
@Suite(.timeLimit(.minutes(5))) struct GuardTests {
    private func routes(_ router: inout Router) {
        router.get("/ok") { .text("fine \($0.bodyCount)") }
        router.get("/at/{x}") { .text($0.parameter("x")) }
        router.post("/body") { .text("took \($0.bodyCount)") }
        router.post("/small", bodyBytesMax: 10) { .text("took \($0.bodyCount)") }
        router.get("/rest/{path...}") { .text($0.parameter("path")) }
    }

    @Test(arguments: [
        "GET /ok HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /ok HTTP/1.1\r\n\r\n",
        "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /ok HTTP/1.1\r\nHost: a\r\nContent-Length : 0\r\n\r\n",
        "GET /ok HTTP/1.1\r\nHost: a\r\nX Y: 0\r\n\r\n",
        "GET /ok HTTP/1.7\r\nHost: a\r\n\r\n",
        "GET /at/a%00b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /ok?x=%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /at/%zz HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /at/a\u{0}b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /at/a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /rest/a/../b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /rest/a%2f%2e%2e%2fb HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /body HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ])
    func malformedIs400AndCloses(_ request: String) throws {
        try withServer(routes: routes) { (port, _) throws in
            let answer = try RawClient.exchange(port, request + "GET /ok HTTP/1.1\r\nHost: a\r\n\r\n")
            #expect(answer.status == 400, "\(request.debugDescription) → \(answer.debugDescription)")
            #expect(!answer.contains("fine"), "nothing behind it may be answered")
        }
    }

    @Test func versionsThatWeDoNotSpeak() throws {
        try withServer(routes: routes) { (port, _) throws in
            let answer = try RawClient.exchange(port, "GET /ok HTTP/2.0\r\nHost: a\r\n\r\n")
            #expect([400, 505].contains(answer.status), "\(answer.debugDescription)")
        }
    }

    @Test func wellFormedOnesPass() throws {
        try withServer(routes: routes) { (port, _) throws in
            let chunked = "POST /body HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\nConnection: close\r\n\r\n"
            #expect(try RawClient.exchange(port, chunked + "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").hasSuffix("took 5"))
            #expect(try RawClient.exchange(port, "GET /ok HTTP/1.0\r\n\r\n").status == 200)
            let absolute = "GET http://a.example/at/q?z=1 HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"
            #expect(try RawClient.exchange(port, absolute).hasSuffix("\r\n\r\nq"))
        }
    }

    @Test func bodiesThatAreTooLarge() throws {
        try withServer({ $0.bodyBytesMax = 1000 }, routes: routes) { (port, server) throws in
            let announced = try RawClient.exchange(
                port,
                "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
                    + String(repeating: "x", count: 100_000))
            #expect(announced.status == 413)
            let chunk = "190\r\n" + String(repeating: "y", count: 400) + "\r\n"
            let grown = try RawClient.exchange(
                port,
                "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                    + String(repeating: chunk, count: 50) + "0\r\n\r\n")
            #expect(grown.status == 413)
            #expect(grown.components(of: "HTTP/1.1 ") == 1)
            let route = try RawClient.exchange(
                port, "POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n01234567890")
            #expect(route.status == 413)
            #expect(server.metric(#"http_refused_total{reason="body_too_large"}"#) == 3)
            let fits = "POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nConnection: close\r\n\r\n0123456789"
            #expect(try RawClient.exchange(port, fits).hasSuffix("took 10"))
        }
    }

    @Test func anEndlessBodyIsCutOff() throws {
        try withServer({ $0.discardBytesMax = 100_000 }, routes: routes) { (port, server) throws in
            let client = try RawClient(port: port)
            client.send("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n")
            let piece = [UInt8](repeating: 0x78, count: 65536)
            var sent = 0
            while client.send(piece), sent < 64 << 20 { sent += piece.count }
            #expect(sent < 64 << 20, "the server must not read it all")
            #expect(eventually { server.metric("http_connections") == 0 })
        }
    }

    @Test func bodiesOfGetAreDrained() throws {
        try withServer(routes: routes) { (port, _) throws in
            let answer = try RawClient.exchange(
                port,
                "GET /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
                    + "GET /at/second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            #expect(answer.contains("fine 5"))
            #expect(answer.hasSuffix("second"))
        }
    }

    /// Where a header nearly fills the library's memory it answers nothing; the deadline does, or the close.
    @Test(arguments: [9_000, 12_000, 16_000, 20_000, 23_000, 24_500, 60_000, 200_000])
    func headersThatAreTooLarge(_ size: Int) throws {
        try withServer({ $0.headerDeadline = .seconds(1) }, routes: routes) { (port, _) throws in
            var lines = ""
            while lines.utf8.count < size { lines += "X-Filler: " + String(repeating: "f", count: 900) + "\r\n" }
            let answer = try RawClient.exchange(port, "GET /ok HTTP/1.1\r\nHost: a\r\n" + lines + "\r\n")
            #expect(
                answer.status == 431 || (size > 18_000 && [0, 408].contains(answer.status)),
                "\(size): \(answer.prefix(60))")
            let long = "GET /ok?" + String(repeating: "q", count: size) + " HTTP/1.1\r\nHost: a\r\n\r\n"
            let target = try RawClient.exchange(port, long)
            #expect(
                [431, 414].contains(target.status) || (size > 18_000 && [0, 408].contains(target.status)),
                "\(size): \(target.prefix(60))"
            )
            #expect(try RawClient.exchange(port, "GET /ok HTTP/1.0\r\n\r\n").status == 200)
        }
    }

    @Test func drippingClientsAreClosedAndOthersAreNot() throws {
        try withServer(
            {
                $0.headerDeadline = .milliseconds(600)
                $0.bodyDeadline = .milliseconds(600)
            }, routes: routes
        ) { (port, server) throws in
            let headers = try (0..<100).map { _ in try RawClient(port: port) }
            let bodies = try (0..<100).map { _ in try RawClient(port: port) }
            for client in bodies { client.send("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n") }
            for client in headers { client.send("GET /ok HT") }
            let good = HTTPClient()
            var round = 0
            let allClosed = eventually {
                for client in headers { client.send("x") }
                for client in bodies { client.send("x") }
                round += 1
                usleep(30_000)
                let answer = try? good.get("http://127.0.0.1:\(port)/ok")
                #expect(answer?.status == 200)
                return (server.metric(#"http_refused_total{reason="deadline"}"#) ?? 0) >= 200
            }
            #expect(allClosed)
            #expect(headers[0].readToEnd().status == 408 || round > 0)
            #expect(eventually { (server.metric("http_connections") ?? 9) <= 1 })
        }
    }

    @Test func aDripOnAConnectionThatWasUsedBefore() throws {
        try withServer(
            {
                $0.headerDeadline = .milliseconds(400)
                $0.idleTimeout = .seconds(1)
            }, routes: routes
        ) { (port, server) throws in
            let client = try RawClient(port: port)
            client.send("GET /ok HTTP/1.1\r\nHost: a\r\n\r\n")
            _ = client.read(until: "fine 0")
            let closed = eventually {
                usleep(50_000)
                return !client.send("G")
            }
            #expect(closed)
        }
    }

    @Test func theConnectionLimitAnswers503() throws {
        try withServer({ $0.connectionsMax = 8 }, routes: routes) { (port, server) throws in
            let held = try (0..<8).map { _ in try RawClient(port: port) }
            #expect(eventually { server.metric("http_connections") == 8 })
            let refused = try RawClient.exchange(port, "GET /ok HTTP/1.1\r\nHost: a\r\n\r\n")
            #expect(refused.status == 503)
            #expect(refused.contains("Retry-After"))
            #expect((server.metric(#"http_refused_total{reason="connections"}"#) ?? 0) >= 1)
            for client in held {
                client.send("GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                #expect(client.readToEnd().status == 200)
            }
            #expect(eventually { server.metric("http_connections") == 0 })
            #expect(try RawClient.exchange(port, "GET /ok HTTP/1.0\r\n\r\n").status == 200)
        }
    }

    @Test func farBeyondTheLimitNothingStalls() throws {
        try withServer({ $0.connectionsMax = 4 }, routes: routes) { (port, server) throws in
            let many = try (0..<150).map { _ in try RawClient(port: port) }
            #expect(eventually { (server.metric(#"http_refused_total{reason="connections"}"#) ?? 0) >= 146 })
            withExtendedLifetime(many) {}
        }
    }

    /// libmicrohttpd 0.9.75 takes 128 events at a time, and when exactly 128 come it waits again before it looks at
    /// them: a thread whose 128 clients speak at once would answer none of them until something else happens.
    @Test(arguments: 125...131) func clientsThatSpeakAtOnceAreAnswered(_ count: Int) throws {
        try withServer(
            {
                $0.threads = 1
            },
            routes: { router in
                routes(&router)
                router.get("/busy") { _ in
                    usleep(100_000)
                    return .text("busy")
                }
            }
        ) { (port, server) throws in
            let clients = try (0..<count).map { _ in try RawClient(port: port) }
            let busy = try RawClient(port: port)
            #expect(eventually { server.metric("http_connections") == Double(count + 1) })
            busy.send("GET /busy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            usleep(20_000)
            for client in clients { client.send("GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") }
            let answered = clients.reduce(0) { $0 + ($1.readToEnd().status == 200 ? 1 : 0) }
            #expect(answered == count)
        }
    }

    @Test func aPortThatIsTakenIsAnError() throws {
        try withServer(routes: routes) { (port, _) throws in
            var configuration = HTTPServer.Configuration()
            configuration.port = port
            let second = HTTPServer(configuration: configuration, router: Router())
            #expect(throws: HTTPServerError.socket(call: "bind", code: EADDRINUSE)) { try second.start() }
        }
        var configuration = HTTPServer.Configuration()
        configuration.address = "localhost"
        let server = HTTPServer(configuration: configuration, router: Router())
        #expect(throws: HTTPServerError.address("localhost")) { try server.start() }
    }
}

extension String {
    func components(of part: String) -> Int { split(separator: part, omittingEmptySubsequences: false).count - 1 }
}
