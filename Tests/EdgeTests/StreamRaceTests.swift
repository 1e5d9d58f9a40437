import Changes
import Foundation
import Synchronization
import Testing

@testable import Edge
@testable import HTTP

/// Clients that come and go while events are published as fast as they can be: what unit tests of one stream do not see.
@Suite(.serialized, .timeLimit(.minutes(5)))
struct StreamRaceTests {
    @Test func clientsComeAndGoWhileEventsAreSent() throws {
        let world = try CountedRegion(flushed: false)
        defer { world.close() }
        let isOver = Atomic<Bool>(false)
        let published = Atomic<Int>(0)
        let opened = Atomic<Int>(0)
        let received = Atomic<Int>(0)
        let malformed = Atomic<Int>(0)
        let ended = DispatchGroup()
        for worker in 0..<12 {
            DispatchQueue(label: "client \(worker)").async(group: ended) {
                var generator = SystemRandomNumberGenerator()
                while !isOver.load(ordering: .relaxed) {
                    // Some leave at once, some stay a while; each leaves in the middle of what is being sent.
                    var left = Int.random(in: 1...60, using: &generator)
                    opened.add(1, ordering: .relaxed)
                    _ = try? HTTPClient().events(world.url + "/v1/stream") { event in
                        let object = try? JSONSerialization.jsonObject(with: Data(event.data.utf8)) as? [String: Any]
                        let isWhole =
                            event.name == "event" && (object?["id"] as? String)?.hasPrefix("transaction-") == true
                        if isWhole {
                            received.add(1, ordering: .relaxed)
                        } else {
                            malformed.add(1, ordering: .relaxed)
                        }
                        left -= 1
                        return left > 0 && !isOver.load(ordering: .relaxed)
                    }
                }
            }
        }
        let end = Date(timeIntervalSinceNow: 3)
        while Date() < end {
            try world.publish()
            published.add(1, ordering: .relaxed)
            usleep(200)
        }
        isOver.store(true, ordering: .relaxed)
        // A client that waits for its next event must get one, to see that it is over.
        while ended.wait(timeout: .now() + .milliseconds(5)) == .timedOut { try world.publish() }
        #expect(malformed.load(ordering: .relaxed) == 0)
        #expect(opened.load(ordering: .relaxed) > 12 && received.load(ordering: .relaxed) > 100)
        // An idle stream's client is looked after once a second.
        let limit = Date(timeIntervalSinceNow: 20)
        while world.openStreams != 0, Date() < limit {
            try world.publish()
            usleep(20_000)
        }
        #expect(world.openStreams == 0)
        #expect(try HTTPClient().get(world.url + "/healthz").status == 200)
    }
}
