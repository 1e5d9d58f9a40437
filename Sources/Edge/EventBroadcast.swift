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
        var flagged = 0
        var others = 0
        batch.forEachChange { change in
            guard change.kind == .event, let record = unsafe EventRecord(change.value) else { return }
            if record.flags.contains(.flagged) { flagged += 1 } else { others += 1 }
        }
        var selection = BroadcastSelection(flagged: flagged, others: others)
        batch.forEachChange { change in
            guard change.kind == .event, let record = unsafe EventRecord(change.value),
                selection.takes(flagged: record.flags.contains(.flagged))
            else { return }
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
