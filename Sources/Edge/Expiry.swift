import Changes
import Features
import Storage

/// Lets events go whose time lies further behind the log's watermark than the pipeline keeps them: rows, ids and vectors,
/// a few at a time, the oldest first.
///
/// The watermark and not this machine's clock decides, so a log of old events that is replayed today keeps its events.
struct Expiry: ~Copyable {
    private let tenants: [String]
    private let retention: Int64
    /// Where the walk over each tenant's rows goes on: what lies before it has gone.
    private var reached: [EventKey?]
    private var nextLook: Int64 = 0
    private let rows = StoreBatch()
    private static let intervalMicroseconds: Int64 = 1_000_000
    private static let rowsPerStep = 1000

    init(_ pipeline: Pipeline) {
        tenants = pipeline.tenants
        retention = pipeline.limits.retentionMicroseconds
        reached = tenants.map { _ in nil }
    }

    mutating func proceed(_ view: View, _ vectors: ReplicaVectors, watermark: Int64, now: Int64) throws {
        guard now >= nextLook, watermark > 0 else { return }
        nextLook = now + Self.intervalMicroseconds
        let horizon = watermark - retention
        vectors.oldestKept = horizon
        for tenant in tenants.indices where try expire(view, vectors, tenant, before: horizon) { nextLook = now }
    }

    /// Returns whether there is more to do.
    private mutating func expire(
        _ view: View, _ vectors: ReplicaVectors, _ tenant: Int, before horizon: Int64
    ) throws -> Bool {
        let prefix = EventKey.prefix(tenant: tenants[tenant])
        let iterator = StoreIterator(view.store)
        iterator.seek(reached[tenant]?.row(tenant: tenants[tenant]) ?? prefix)
        rows.clear()
        var gone: [EventKey] = []
        while iterator.isValid, unsafe iterator.key.starts(with: prefix), gone.count < Self.rowsPerStep,
            let key = unsafe EventKey(row: iterator.key), key.time < horizon
        {
            gone.append(key)
            unsafe rows.delete(iterator.key)
            if let row = unsafe EventRow(iterator.value) {
                unsafe try EventKey.withIdentifier(tenant: tenants[tenant], id: row.id) { identifier in
                    // The id may be another event's by now.
                    let newest = try unsafe view.store.get(identifier) { unsafe EventKey(value: $0) } ?? nil
                    if newest == key { unsafe rows.delete(identifier) }
                }
            }
            iterator.next()
        }
        try iterator.check()
        guard let last = gone.last else { return false }
        try view.write(ahead: rows)
        for key in gone { vectors.delete(key, tenant: tenant) }
        reached[tenant] = last
        return gone.count == Self.rowsPerStep
    }
}
