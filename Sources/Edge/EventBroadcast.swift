import Changes
import Features
import Foundation
import HTTP

/// Sends each event that became visible to those who watch, as server-sent events.
///
/// `@unchecked Sendable`: guarded by the lock.
final class EventBroadcast: @unchecked Sendable {
    private let lock = NSLock()
    private var watchers: [(tenant: String, stream: EventStream)] = []
    static let watchersMax = 1000
    /// A batch of thousands of events is shown by its newest ones: a page cannot show more.
    private static let eventsPerBatchMax = 50

    /// `nil` where too many watch already.
    func add(tenant: String) -> EventStream? {
        lock.withLock {
            watchers.removeAll { $0.stream.isClosed }
            guard watchers.count < Self.watchersMax else { return nil }
            let stream = EventStream()
            watchers.append((tenant, stream))
            return stream
        }
    }

    func publish(_ batch: ChangeBatch, pipeline: Pipeline) {
        let watchers = lock.withLock {
            self.watchers.removeAll { $0.stream.isClosed }
            return self.watchers
        }
        guard !watchers.isEmpty else { return }
        var skip = max(0, Int(batch.header.scored) - Self.eventsPerBatchMax)
        batch.forEachChange { change in
            guard change.kind == .event, let record = unsafe EventRecord(change.value) else { return }
            guard skip == 0 else {
                skip -= 1
                return
            }
            let (tenant, id) = unsafe change.tenantAndRest
            var json = JSONWriter(reserving: 512)
            unsafe EventJSON.write(id: id, record, pipeline: pipeline, details: false, to: &json)
            for watcher in watchers where unsafe watcher.tenant.utf8.elementsEqual(tenant) {
                _ = watcher.stream.send(event: "event", data: json.bytes)
            }
        }
    }

    func close() { lock.withLock { for watcher in watchers { watcher.stream.end() } } }
}
