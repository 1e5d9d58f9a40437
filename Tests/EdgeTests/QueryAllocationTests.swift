import CAllocations
import Changes
import Core
import Features
import Foundation
import Replicate
import Scoring
import Service
import Synchronization
import Testing

@testable import Edge
@testable import HTTP
@testable import Storage

#if DEBUG
    private let isReleaseBuild = false
#else
    private let isReleaseBuild = true
#endif

/// What a handler allocates, counted on the server's own thread while a client asks over one kept connection: from the
/// parsed request that the router hands over to the finished `Response`, its body and its header block written. What
/// RocksDB allocates for the same reads, counted around the bare calls, is taken off: the rest is ours, at most 5.
///
/// Two answers take more: a body that a person's tool posts is read by Foundation's JSON parser, and a preview carries its
/// features, vector and reasons in arrays. A debug build allocates for generics that release specialises: `make test`
/// runs this in release.
@Suite(.serialized, .timeLimit(.minutes(5)), .enabled(if: isReleaseBuild, "allocations are counted in release"))
struct QueryAllocationTests {
    @Test(arguments: [false, true])
    func aQueryAllocatesNoMoreThanItDid(flushed: Bool) throws {
        let world = try CountedRegion(flushed: flushed)
        defer { world.close() }
        let dimensions = try #require(world.region.replica).vectors.dimensions
        let vector = (0..<dimensions).map { "\(Float($0 % 7) + 0.5)" }.joined(separator: ",")
        let get = try world.allocationsOfGets()
        let walk = try world.allocationsOfAWalk(20)
        let queries: [(path: String, body: String?, library: Int, ours: Int)] = [
            ("/v1/events/transaction-00150", nil, get.identifier + get.row, 5),
            ("/v1/entities/customer/customer-000000003", nil, 0, 5),
            ("/v1/entities/terminal/terminal-000000002", nil, 0, 5),
            ("/v1/events?limit=20", nil, walk, 5),
            ("/v1/similar?id=transaction-00150&k=10", nil, get.identifier + 12 * get.row, 5),
            ("/v1/similar", "{\"k\":10,\"vector\":[\(vector)]}", 10 * get.row, 65),
            ("/v1/score", String(decoding: CountedRegion.event(9_001), as: UTF8.self), 0, 20),
        ]
        for (path, body, library, ours) in queries {
            let count = try world.count(path, body: body)
            #expect(count <= library + ours, "\(path): \(count), of them RocksDB's \(library)")
        }
    }
}

/// A region with a few hundred scored events behind a server whose handlers are counted.
final class CountedRegion: Sendable {
    let folder = NSTemporaryDirectory() + "/counted-\(UUID().uuidString)"
    let region: Region
    private let server: HTTPServer
    private let client = HTTPClient()
    let url: String
    private let tally = Tally()
    private let batch: [UInt8]

    /// - Parameter flushed: whether the rows lie in a file; otherwise they lie in RocksDB's memtable.
    init(flushed: Bool) throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().path()
        let pipeline = try Pipeline(path: root + "/pipelines/cards.yaml")
        let model = try ScoringModel(path: root + "/models/cards.json", pipeline: pipeline)
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let log = try EmbeddedLog(path: folder + "/log", partitions: 2, lingerMicroseconds: 0)
        let figures = CoreFigures()
        let loop = try ScoringLoop(
            log: log, view: try View(path: folder + "/core"), pipeline: pipeline, model: model, figures: figures,
            eventsMax: 50)
        let clock = ManualClock()
        let bus = InProcessBus()
        let relay = Relay(
            source: LogSource(log: log, figures: figures), publisher: bus, log: Log(role: "test", minimum: .error),
            clock: clock)
        region = try Region(
            .init(name: "eu", path: folder + "/eu"), pipeline: pipeline, model: model, bus: bus.makeSubscriber(),
            log: Log(role: "eu", minimum: .error), clock: clock)
        var request = AppendRequest()
        for id in 0..<300 {
            let event = Self.event(id)
            let partition = Array("customer-\(Self.padded(id % 17, 9))".utf8).withUnsafeBytes {
                Changes.partition(of: $0, count: 2)
            }
            event.withUnsafeBytes { request.add($0, partition: partition) }
        }
        _ = try log.append(request)
        while try loop.step(waitMicroseconds: 1000) != .idle {}
        for _ in 0..<20 {
            clock.advance(100_000)
            while try relay.step() {}
            while try region.step(waitMicroseconds: 0) {}
        }
        var first: [UInt8] = []
        try log.changelog(of: 0, after: 0) { _, encoded in
            first = Array(encoded)
            return false
        }
        batch = first
        if flushed { try region.replica?.view.store.flush() }
        var routes = Router()
        EdgeRoutes(region, clock: clock).install(in: &routes, page: [])
        var router = Router()
        let tally = tally
        for route in routes.routes {
            router.on(route.method, route.pattern, bodyBytesMax: route.bodyBytesMax) { request in
                let before = allocations_of_thread()
                let response = try route.handler(request)
                tally.add(Int(allocations_of_thread() - before))
                return response
            }
        }
        var configuration = HTTPServer.Configuration()
        configuration.threads = 1
        configuration.heartbeatInterval = .milliseconds(50)
        server = HTTPServer(configuration: configuration, router: router)
        url = "http://127.0.0.1:\(try server.start())"
    }

    func close() {
        server.stop(deadline: .seconds(1))
        region.close()
        try? FileManager.default.removeItem(atPath: folder)
    }

    static func padded(_ number: Int, _ width: Int) -> String {
        let text = String(number)
        return String(repeating: "0", count: width - text.count) + text
    }

    /// Ids are longer than the 15 bytes that a `String` holds without an allocation.
    static func event(_ id: Int) -> [UInt8] {
        let time = Timestamp.text(1_799_990_000_000_000 + Int64(id) * 1_000_000)
        return Array(
            """
            {"transaction_id":"transaction-\(padded(id, 5))","time":"\(time)",\
            "customer_id":"customer-\(padded(id % 17, 9))","terminal_id":"terminal-\(padded(id % 5, 9))",\
            "amount":\(10 + id * 7 % 90).25,"scenario":0}
            """.utf8)
    }

    private var store: Store { get throws { try #require(region.replica).view.store } }

    /// What RocksDB allocates to find an id, and to read a row: the most of many.
    func allocationsOfGets() throws -> (identifier: Int, row: Int) {
        let store = try store
        var identifier = 0
        var row = 0
        for round in 0..<60 {
            let id = "transaction-" + Self.padded(100 + round, 5)
            let tenant = region.pipeline.tenants[0]
            let name = [UInt8](tenant.utf8)
            let idKey = [View.Prefix.identifier, UInt8(name.count)] + name + Array(id.utf8)
            let key = try #require(try store.get(idKey) { EventKey(value: $0) } ?? nil)
            let rowKey = key.row(tenant: tenant)
            var before = allocations_of_thread()
            _ = try idKey.withUnsafeBytes { try store.get($0) { $0.count } }
            identifier = max(identifier, Int(allocations_of_thread() - before))
            before = allocations_of_thread()
            _ = try rowKey.withUnsafeBytes { try store.get($0) { $0.count } }
            row = max(row, Int(allocations_of_thread() - before))
        }
        return (identifier, row)
    }

    /// What RocksDB allocates to walk over so many rows from the newest on.
    func allocationsOfAWalk(_ rows: Int) throws -> Int {
        let store = try store
        let start = EventKey.prefix(tenant: region.pipeline.tenants[0]) + [UInt8](repeating: 0xFF, count: 16)
        var most = 0
        for _ in 0..<20 {
            let before = allocations_of_thread()
            let iterator = StoreIterator(store)
            iterator.seekBack(start)
            for _ in 0..<rows where iterator.isValid { iterator.previous() }
            most = max(most, Int(allocations_of_thread() - before))
        }
        return most
    }

    /// The most that one query allocates once the connection's storage has grown.
    func count(_ path: String, body: String?) throws -> Int {
        let ask = {
            let answer =
                try body.map { try self.client.post(self.url + path, body: Array($0.utf8)) }
                ?? self.client.get(self.url + path)
            guard answer.status == 200 else { throw Unexpected(answer: answer.text) }
            return answer
        }
        for _ in 0..<20 { _ = try ask() }
        tally.clear()
        for _ in 0..<50 { _ = try ask() }
        return tally.most
    }

    struct Unexpected: Error { let answer: String }

    // MARK: the event stream

    /// Sends a batch of the log to those who watch.
    func publish() throws {
        try batch.withUnsafeBytes {
            try region.stream.publish(ChangeBatch(decoding: $0), pipeline: region.pipeline)
        }
    }

    var openStreams: Double { server.metrics.gauge("http_event_streams", help: "Event streams that are open.").value }
}

/// Counts of the handlers that ran, in room made beforehand.
final class Tally: Sendable {
    private let counts = Mutex<[Int]>([])

    init() { clear() }

    func clear() {
        counts.withLock { counts in
            counts.removeAll(keepingCapacity: true)
            counts.reserveCapacity(1000)
        }
    }

    func add(_ count: Int) { counts.withLock { $0.append(count) } }

    var most: Int { counts.withLock { $0.max() ?? 0 } }
}
