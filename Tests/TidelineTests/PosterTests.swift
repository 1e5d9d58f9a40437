import Foundation
import HTTP
import Synchronization
import Testing

@testable import Tideline

/// A core that answers with the statuses it was given, one a post, then with 202; it keeps what it was sent.
final class FakeCore: Sendable {
    private struct State {
        var statuses: [Int]
        var bodies: [String] = []
    }

    private final class Memory: Sendable {
        let state: Mutex<State>
        init(_ statuses: [Int]) { state = Mutex(State(statuses: statuses)) }
    }

    let url: String
    private let memory: Memory
    private let server: HTTPServer

    init(statuses: [Int] = []) throws {
        let memory = Memory(statuses)
        var router = Router()
        router.post("/v1/events") { request in
            let body = request.body
            let status = memory.state.withLock { state in
                state.bodies.append(String(decoding: body, as: UTF8.self))
                return state.statuses.isEmpty ? 202 : state.statuses.removeFirst()
            }
            guard status == 202 || status == 422 else { throw Problem(status: status) }
            let lines = body.split(separator: 10).count
            let text =
                status == 202
                ? #"{"accepted":\#(lines),"refused":0,"errors":[]}"#
                : #"{"accepted":0,"refused":\#(lines),"errors":[{"line":2,"reason":"amount: missing"}]}"#
            return Response(status: status, contentType: .json, body: Array(text.utf8))
        }
        server = HTTPServer(router: router)
        url = "http://127.0.0.1:\(try server.start())"
        self.memory = memory
    }

    deinit { server.stop(deadline: .seconds(1)) }

    var bodies: [String] { memory.state.withLock { $0.bodies } }
}

@Suite(.timeLimit(.minutes(5))) struct PosterTests {
    @Test func whatWasNotTakenGoesAgainAsItWas() throws {
        let core = try FakeCore(statuses: [503, 429, 500])
        let poster = EventPoster(url: core.url, connections: 1)
        for body in ["a\nb\n", "c\n"] { #expect(poster.post(Array(body.utf8), events: 2) { false }) }
        poster.finish { false }
        #expect(core.bodies == ["a\nb\n", "a\nb\n", "a\nb\n", "a\nb\n", "c\n"])
        #expect(poster.counts.accepted == 3 && poster.counts.refused == 0 && poster.counts.retries == 3)
        #expect(poster.counts.trouble == nil && poster.counts.failure == nil)
    }

    @Test func refusalsAreNamedByRow() throws {
        let core = try FakeCore(statuses: [422])
        let poster = EventPoster(url: core.url, connections: 2)
        poster.post(Array("a\nb\nc\n".utf8), events: 3, firstRow: 11) { false }
        poster.refuse("row 14: broken")
        poster.finish { false }
        #expect(poster.counts.refused == 4 && poster.counts.accepted == 0)
        #expect(Set(poster.counts.reasons) == ["row 12: amount: missing", "row 14: broken"])
    }

    @Test func whatNoPostWillHelpEndsIt() throws {
        let core = try FakeCore(statuses: [404])
        let poster = EventPoster(url: core.url, connections: 1)
        poster.post(Array("a\n".utf8), events: 1) { false }
        poster.finish { false }
        #expect(poster.counts.failure?.contains("404") == true)
        #expect(!poster.post([], events: 0) { false })
    }

    @Test func severalConnectionsTakeEverythingOnce() throws {
        let core = try FakeCore(statuses: [503, 202, 503, 202, 503])
        let poster = EventPoster(url: core.url + "/", connections: 4)
        for index in 0..<100 { poster.post(Array("\(index)\n".utf8), events: 1) { false } }
        poster.finish { false }
        #expect(poster.counts.accepted == 100 && poster.counts.retries == 3)
        #expect(Set(core.bodies).count == 100 && core.bodies.count == 103)
    }

    @Test func whoeverWaitsForACoreThatIsAwayMayLookAndLeave() {
        // Nobody listens on port 1.
        let poster = EventPoster(url: "http://127.0.0.1:1", connections: 1)
        var taken = 0
        var looks = 0
        while taken < 100,
            poster.post(
                [10], events: 1,
                unless: {
                    looks += poster.counts.retries > 0 ? 1 : 0
                    return looks > 2
                })
        {
            taken += 1
        }
        #expect(taken <= 3, "at most two batches a connection wait, with one under way")
        let began = ContinuousClock.now
        poster.finish(unless: { poster.counts.accepted == 0 })
        #expect(poster.counts.trouble != nil && ContinuousClock.now - began < .seconds(20))
    }
}
