import Foundation
import Glibc
import HTTP
import Synchronization
import Testing

/// Deferred answers, event streams and the order of stopping.
@Suite(.timeLimit(.minutes(5))) struct WaitingTests {
    /// Answers from threads of its own, some before the handler has returned.
    private static func deferred(_ router: inout Router) {
        router.get("/later/{n}") { request in
            let n = request.parameter("n")
            let isSlow = n.hasSuffix("7")
            return .deferred(timeout: .seconds(5), fallback: .text("late", status: 504)) { responder in
                if n.hasSuffix("3") {
                    responder.respond(.text(n))
                } else {
                    DispatchQueue.global().async {
                        if isSlow { usleep(2_000) }
                        responder.respond(.text(n))
                        responder.respond(.text("twice"))
                    }
                }
            }
        }
        router.get("/never") { _ in
            .deferred(timeout: .milliseconds(100), fallback: .text("late", status: 504)) { _ in }
        }
        router.get("/long") { _ in
            .deferred(timeout: .seconds(60), fallback: .text("stopped", status: 503)) { _ in }
        }
        router.get("/ok") { _ in .text("fine") }
    }

    @Test func sixtyFourClientsWithTwoThreads() throws {
        try withServer(routes: Self.deferred) { (port, server) throws in
            let wrong = Counter()
            let right = Counter()
            inParallel(64) { worker in
                let client = HTTPClient()
                for round in 0..<40 {
                    let n = "\(worker * 100 + round)"
                    let answer = try? client.get("http://127.0.0.1:\(port)/later/\(n)")
                    (answer?.text == n ? right : wrong).increment()
                }
            }
            #expect(right.value == 64 * 40)
            #expect(wrong.value == 0)
            #expect(threadCount() < 64 + 64)
            #expect(eventually { server.requestsInFlight == 0 })
        }
    }

    /// The kernel would spread them by a hash, unevenly; and whoever has lost its clients gets the next ones.
    @Test func connectionsGoWhereTheFewestAre() throws {
        try withServer({ $0.threads = 4 }, routes: { $0.get("/thread") { _ in .text("\(pthread_self())!") } }) {
            (port, server) throws in
            func open(_ count: Int) throws -> [(thread: String, client: RawClient)] {
                try (0..<count).map { _ in
                    let client = try RawClient(port: port)
                    client.send("GET /thread HTTP/1.1\r\nHost: a\r\n\r\n")
                    let thread = client.read(until: "!").split(separator: "\r\n").last ?? ""
                    return (String(thread), client)
                }
            }
            var clients = try open(16)
            let counts = Dictionary(grouping: clients, by: \.thread).mapValues(\.count)
            #expect(counts.count == 4 && counts.values.allSatisfy { $0 == 4 })
            let left = clients[0].thread
            clients.removeAll { $0.thread == left }
            #expect(eventually { server.metric("http_connections") == 12 })
            #expect(try open(4).allSatisfy { $0.thread == left })
        }
    }

    @Test func aWaitEndsWithItsFallback() throws {
        try withServer(routes: Self.deferred) { (port, server) throws in
            let client = HTTPClient()
            let answer = try client.get("http://127.0.0.1:\(port)/never")
            #expect(answer.status == 504 && answer.text == "late")
            // It is counted by the thread that answers, a moment after the answer.
            #expect(eventually { server.metric("http_deferred_timeouts_total") == 1 })
            #expect(try client.get("http://127.0.0.1:\(port)/ok").text == "fine")
        }
    }

    @Test func moreWaitsThanAllowedGetTheirFallbackAtOnce() throws {
        try withServer({ $0.deferredMax = 2 }, routes: Self.deferred) { (port, server) throws in
            let held = try (0..<2).map { _ in try RawClient(port: port) }
            for client in held { client.send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n") }
            #expect(eventually { server.requestsInFlight == 2 })
            #expect(try HTTPClient().get("http://127.0.0.1:\(port)/long").status == 503)
        }
    }

    @Test func stoppingAnswersWhatWaits() throws {
        var router = Router()
        Self.deferred(&router)
        let server = HTTPServer(router: router)
        let port = try server.start()
        let waiting = try (0..<50).map { _ in try RawClient(port: port) }
        for client in waiting { client.send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n") }
        let idle = try RawClient(port: port)
        #expect(eventually { server.requestsInFlight == 50 })
        server.stop(deadline: .milliseconds(200))
        for client in waiting {
            let answer = client.readToEnd()
            #expect(answer.status == 503 && answer.hasSuffix("stopped"))
        }
        #expect(idle.readToEnd().isEmpty)
        #expect(throws: (any Error).self) { try RawClient(port: port) }
        server.stop()
    }

    @Test func stoppingUnderLoadLosesNoAnswerThatWasBegun() throws {
        for _ in 0..<5 {
            let begun = Counter()
            let seen = Counter()
            let stream = EventStream()
            var router = Router()
            Self.deferred(&router)
            router.get("/work") { _ in
                begun.increment()
                usleep(1_000)
                return .text("done")
            }
            router.get("/stream") { _ in .stream(stream) }
            let server = HTTPServer(router: router)
            let port = try server.start()
            let reader = try RawClient(port: port)
            reader.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            #expect(eventually { server.requestsInFlight == 1 })
            let clients = Thread {
                inParallel(16) { worker in
                    let client = HTTPClient()
                    while let answer = try? client.get(
                        "http://127.0.0.1:\(port)/\(worker % 2 == 0 ? "work" : "later/7")")
                    {
                        if answer.text == "done" { seen.increment() }
                    }
                }
                begun.increment(by: 1_000_000)
            }
            clients.start()
            usleep(100_000)
            server.stop(deadline: .seconds(5))
            #expect(eventually { begun.value >= 1_000_000 })
            #expect(begun.value - 1_000_000 == seen.value)
            #expect(seen.value > 0)
            #expect(reader.readToEnd().status == 200)
            #expect(!stream.send(data: "after"))
        }
    }

    @Test func eventsArriveInOrder() throws {
        let streams = Mutex<[EventStream]>([])
        try withServer(routes: { router in
            router.get("/stream") { _ in
                let stream = EventStream()
                stream.send(event: "hello", id: "0", data: "line one\nline two\r\nline three")
                streams.withLock { $0.append(stream) }
                return .stream(stream)
            }
        }) { (port, server) throws in
            let sender = Thread {
                _ = eventually { streams.withLock { $0.count } == 1 }
                let stream = streams.withLock { $0[0] }
                for n in 1...1000 { while !stream.send(id: "\(n)", data: "\(n)"), !stream.isClosed { usleep(100) } }
            }
            sender.start()
            var events: [ServerSentEvent] = []
            let status = try HTTPClient().events("http://127.0.0.1:\(port)/stream") { event in
                events.append(event)
                return events.count < 1001
            }
            #expect(status == 200)
            #expect(events.first == ServerSentEvent(name: "hello", id: "0", data: "line one\nline two\nline three"))
            #expect(events.dropFirst().map(\.data) == (1...1000).map { "\($0)" })
            #expect(eventually { streams.withLock { $0[0].isClosed } }, "the client has gone")
            #expect(eventually { server.metric("http_event_streams") == 0 })
        }
    }

    @Test func heartbeatsAndTheEnd() throws {
        let closed = Counter()
        try withServer(
            { $0.heartbeatInterval = .milliseconds(200) },
            routes: { router in
                router.get("/stream") { _ in .stream(EventStream(onClose: { closed.increment() })) }
                router.get("/ended") { _ in
                    let stream = EventStream()
                    stream.send(data: "only")
                    stream.end()
                    return .stream(stream)
                }
            }
        ) { (port, _) throws in
            let client = try RawClient(port: port)
            client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            #expect(client.read(until: ":\n\n").contains("text/event-stream"))
            let ended = try HTTPClient().get("http://127.0.0.1:\(port)/ended")
            #expect(ended.text == "data: only\n\n")
        }
        #expect(closed.value == 1)
    }

    @Test func aSlowReaderIsCutOffAndOthersAreNot() throws {
        let streams = Mutex<[EventStream]>([])
        try withServer(routes: { router in
            router.get("/stream") { _ in
                let stream = EventStream(queueBytesMax: 64 << 10, queueEventsMax: 1000)
                streams.withLock { $0.append(stream) }
                return .stream(stream)
            }
            router.get("/ok") { _ in .text("fine") }
        }) { (port, server) throws in
            let slow = try RawClient(port: port)
            slow.receiveBuffer(bytes: 4096)
            slow.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            #expect(eventually { streams.withLock { $0.count } == 1 })
            let stream = streams.withLock { $0[0] }
            let data = String(repeating: "d", count: 1000)
            var sent = 0
            // What the kernel takes is bounded too; a moment between sends lets it be filled.
            while stream.send(data: data), sent < 100_000 {
                sent += 1
                if sent % 32 == 0 { usleep(500) }
            }
            #expect(sent < 100_000)
            #expect(stream.isClosed && !stream.send(data: data))
            #expect(server.metric("http_event_streams_cut_off_total") == 1)
            #expect(eventually { server.metric("http_event_streams") == 0 })
            #expect(try HTTPClient().get("http://127.0.0.1:\(port)/ok").text == "fine")
        }
    }

    /// The clock's thread reads the time before the stream's lock; what was sent meanwhile lies after it.
    @Test func aMomentThatLiesAheadIsNoSilence() {
        #expect(!EventStream.isSilent(since: 11, now: 10, for: 5))
        #expect(!EventStream.isSilent(since: .max, now: 0, for: 0))
        #expect(!EventStream.isSilent(since: 6, now: 10, for: 5))
        #expect(EventStream.isSilent(since: 5, now: 10, for: 5))
    }

    @Test func manyStreams() throws {
        let streams = Mutex<[EventStream]>([])
        try withServer(
            { $0.streamsMax = 200 },
            routes: { router in
                router.get("/stream") { _ in
                    let stream = EventStream()
                    streams.withLock { $0.append(stream) }
                    return .stream(stream)
                }
            }
        ) { (port, server) throws in
            let clients = try (0..<200).map { _ in try RawClient(port: port) }
            for client in clients { client.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n") }
            #expect(eventually { server.metric("http_event_streams") == 200 })
            #expect(try HTTPClient().get("http://127.0.0.1:\(port)/stream").status == 503)
            for stream in streams.withLock({ $0 }) { stream.send(data: "x") }
            for client in clients { #expect(client.read(until: "data: x\n\n").contains("data: x")) }
        }
    }
}

/// Runs a body on threads of its own and waits for all of them.
func inParallel(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
    let left = DispatchGroup()
    for index in 0..<count {
        left.enter()
        let thread = Thread {
            body(index)
            left.leave()
        }
        thread.start()
    }
    left.wait()
}

func threadCount() -> Int {
    (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task").count) ?? 0
}
