import HTTP
import Testing

@Suite struct RoutingTests {
    private func routes(_ router: inout Router) {
        router.cors = CORS(origins: ["https://good.example"], exposedHeaders: ["Tideline-State"])
        router.get("/v1/events/{id}") { .text("id=" + $0.parameter("id")) }
        router.get("/v1/events/latest") { _ in .text("latest") }
        router.get("/v1/events") { request in
            .text(
                "k=\(request.query("k") ?? "-") all=\(request.queryAll("t").joined(separator: "|"))"
                    + " n=\(try request.queryInt("n", in: 1...10) ?? 0)")
        }
        router.post("/v1/events") { request in
            .text(request.withBody { String(decoding: $0, as: UTF8.self) }, status: 202)
        }
        router.get("/files/{path...}") { .text("rest=" + $0.parameter("path")) }
        router.get("/v1/{kind}/{id}/raw") { .text($0.parameter("kind") + "/" + $0.parameter("id")) }
        router.get("/problem") { _ in
            throw Problem(status: 409, detail: "a \"quoted\" word", members: [("at", .integer(7))])
        }
        router.get("/fails") { _ in throw HTTPServerError.daemon }
        router.get("/header") { .text($0.header("x-one") ?? "none") }
        router.get("/split") { request in
            .text("", headers: ["X-Echo": request.query("v") ?? ""])
        }
    }

    @Test func pathsParametersAndPrecedence() throws {
        try withServer(routes: routes) { (port, _) throws in
            let client = HTTPClient()
            let base = "http://127.0.0.1:\(port)"
            #expect(try client.get(base + "/v1/events/a%2Fb%20c+d").text == "id=a/b c+d")
            #expect(try client.get(base + "/v1/events/latest").text == "latest")
            #expect(try client.get(base + "/v1/%65vents/latest").text == "latest")
            #expect(try client.get(base + "/v1/events/x/raw").text == "events/x")
            #expect(try client.get(base + "/v1/card/9/raw").text == "card/9")
            #expect(try client.get(base + "/files/a/b.css").text == "rest=a/b.css")
            #expect(try client.get(base + "/files/").text == "rest=")
            #expect(try client.get(base + "/v1/events/").status == 404)
            #expect(try client.get(base + "/nothing").status == 404)
        }
    }

    @Test func queries() throws {
        try withServer(routes: routes) { (port, _) throws in
            let client = HTTPClient()
            let base = "http://127.0.0.1:\(port)/v1/events"
            #expect(try client.get(base + "?k=a+b%2Bc&t=1&t=2&t&=x&&n=10").text == "k=a b+c all=1|2| n=10")
            #expect(try client.get(base).text == "k=- all= n=0")
            let bad = try client.get(base + "?n=11")
            #expect(bad.status == 400)
            #expect(bad.header("Content-Type") == "application/problem+json")
            #expect(try client.get(base + "?n=x").status == 400)
        }
    }

    @Test func methods() throws {
        try withServer(routes: routes) { (port, _) throws in
            let client = HTTPClient()
            let base = "http://127.0.0.1:\(port)"
            #expect(try client.post(base + "/v1/events", body: Array("{}".utf8)).status == 202)
            let refused = try client.send("DELETE", base + "/v1/events")
            #expect(refused.status == 405)
            #expect(refused.header("Allow") == "GET, HEAD, OPTIONS, POST")
            #expect(refused.text.contains(#""status":405"#))
            let head = try client.send("HEAD", base + "/v1/events/latest")
            #expect(head.status == 200 && head.body.isEmpty && head.header("Content-Length") == "6")
            #expect(try client.send("OPTIONS", base + "/v1/events").header("Allow") == "GET, HEAD, OPTIONS, POST")
            #expect(try client.send("BREW", base + "/v1/events").status == 405)
        }
    }

    @Test func crossOrigin() throws {
        try withServer(routes: routes) { (port, _) throws in
            let client = HTTPClient()
            let url = "http://127.0.0.1:\(port)/v1/events/latest"
            let good = try client.get(url, headers: [("Origin", "https://good.example")])
            #expect(good.header("Access-Control-Allow-Origin") == "https://good.example")
            #expect(good.header("Access-Control-Expose-Headers") == "Tideline-State")
            #expect(good.header("Vary") == "Origin")
            let bad = try client.get(url, headers: [("Origin", "https://bad.example")])
            #expect(bad.header("Access-Control-Allow-Origin") == nil)
            let preflight = try client.send(
                "OPTIONS", url,
                headers: [("Origin", "https://good.example"), ("Access-Control-Request-Method", "GET")])
            #expect(preflight.status == 204)
            #expect(preflight.header("Access-Control-Allow-Methods") == "GET, HEAD, OPTIONS")
            #expect(preflight.header("Access-Control-Allow-Headers") == "Authorization, Content-Type")
        }
    }

    @Test func problemsAndFailures() throws {
        try withServer(routes: routes) { (port, server) throws in
            let client = HTTPClient()
            let problem = try client.get("http://127.0.0.1:\(port)/problem")
            #expect(problem.status == 409)
            #expect(
                problem.text == #"{"type":"about:blank","title":"Conflict","status":409,"#
                    + #""detail":"a \"quoted\" word","at":7}"#)
            let failure = try client.get("http://127.0.0.1:\(port)/fails")
            #expect(failure.status == 500)
            #expect(!failure.text.contains("daemon"))
            #expect(server.metric("http_handler_errors_total") == 1)
        }
    }

    @Test func headersInAnyCaseAndNoSplitting() throws {
        try withServer({ $0.headers = ["X-Always": "yes"] }, routes: routes) { (port, _) throws in
            let client = HTTPClient()
            let base = "http://127.0.0.1:\(port)"
            #expect(try client.get(base + "/header", headers: [("X-ONE", "1")]).text == "1")
            let split = try client.get(base + "/split?v=a%0D%0AX-Evil:%201")
            #expect(split.header("X-Evil") == nil)
            #expect(split.header("X-Echo") == "a  X-Evil: 1")
            #expect(split.header("X-Always") == "yes")
            #expect(split.header("X-Content-Type-Options") == "nosniff")
        }
    }

    @Test func requestsAreCountedByRoute() throws {
        try withServer(routes: routes) { (port, server) throws in
            let client = HTTPClient()
            for id in 0..<5 { _ = try client.get("http://127.0.0.1:\(port)/v1/events/\(id)") }
            _ = try client.get("http://127.0.0.1:\(port)/nothing")
            #expect(server.metric(#"http_requests_total{route="GET /v1/events/{id}",code="2xx"}"#) == 5)
            #expect(server.metric(#"http_requests_total{route="none",code="4xx"}"#) == 1)
            #expect(server.metric(#"http_request_seconds_count{route="GET /v1/events/{id}"}"#) == 5)
        }
    }
}
