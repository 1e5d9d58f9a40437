import Changes
import Features
import HTTP
import Replicate
import Scoring
import Service
import Storage
import Vectors
internal import Synchronization

/// One region's copy of one log: events on disk, tiles and the newest vectors in memory.
///
/// One thread applies; any number of threads read. `@unchecked Sendable`: the applier's state is the applier's alone,
/// the feature state is guarded by its mutex, positions by theirs.
final class Replica: @unchecked Sendable {
    let lineage: Lineage
    let pipeline: Pipeline
    let partitions: Int
    let view: View
    let vectors: ReplicaVectors
    private let model: ScoringModel?
    private let features: Mutex<FeatureCell>
    private let tiles: TileView
    private let state: FeatureState
    private let known = Mutex<[AppliedPosition?]>([])
    /// Held while a batch's events are written.
    private let applying = Mutex(())
    // The applier's.
    private(set) var feeds: [ReplicaFeed]
    private var tilePositions: [AppliedPosition?]
    private let rows = StoreBatch()
    private var expiry: Expiry
    /// Tenants whose tails did not take all that no segment holds, when this was opened. Set before anybody else reads it.
    var cutTails: Set<Int> = []
    /// The bus position of the last batch that was applied.
    private(set) var busSequence: UInt64?

    /// What the mutex guards: everything that works on the feature state.
    ///
    /// `@unchecked Sendable`: reached through the mutex alone.
    private struct FeatureCell: @unchecked Sendable {
        let state: FeatureState
        let decoder: EventDecoder
        let scratch: ForestScratch?
    }

    /// Opens or makes the replica in a folder of its own, and recovers it.
    init(path: String, lineage: Lineage, partitions: Int, pipeline: Pipeline, model: ScoringModel?, log: Log) throws {
        self.lineage = lineage
        self.pipeline = pipeline
        self.partitions = partitions
        self.model = model
        view = try View(path: path)
        state = FeatureState(pipeline, partitions: partitions)
        tiles = TileView(view, state: state, intervalMicroseconds: 10_000_000)
        let tilePositions = try tiles.restore(lineage: lineage)
        self.tilePositions = tilePositions.map { $0 ?? AppliedPosition(lineage: lineage) }
        let view = view
        let events = try (0..<partitions).map { partition -> AppliedPosition in
            let position = try view.position(.events, partition: UInt32(partition))
            if let position, position.lineage != lineage { throw ForeignView(path: path) }
            return position ?? AppliedPosition(lineage: lineage)
        }
        known.withLock { $0 = events }
        // Tiles may stand behind the events: what lies between is asked for again.
        feeds = zip(events, self.tilePositions).map { ReplicaFeed(applied: min($0.seq, $1?.seq ?? 0)) }
        features = Mutex(
            FeatureCell(
                state: state, decoder: EventDecoder(pipeline), scratch: model.map { ForestScratch(for: $0.forest) }))
        vectors = ReplicaVectors(pipeline, dimensions: pipeline.vectorDimension(model))
        busSequence =
            try unsafe view.store.get([View.Prefix.meta]) { bytes in
                unsafe bytes.count == 8 ? UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self)) : nil
            } ?? nil
        expiry = Expiry(pipeline)
    }

    /// Where each partition stands; `nil` where nothing came yet.
    var frontier: [AppliedPosition?] { known.withLock { $0 } }

    var positions: [AppliedPosition] { known.withLock { $0.compactMap { $0 } } }

    /// Whether all that a snapshot holds has been applied.
    func hasReached(_ manifest: SnapshotManifest) -> Bool {
        zip(frontier, manifest.positions).allSatisfy { ($0?.seq ?? 0) >= $1.seq }
    }

    // MARK: applying

    /// Applies one batch that follows what was applied. Returns the next one where it was held already.
    func apply(_ batch: ChangeBatch, busSequence: UInt64, now: Int64) throws -> [UInt8]? {
        let partition = Int(batch.header.partition)
        let position = known.withLock { $0[partition] } ?? AppliedPosition(lineage: lineage)
        let isNew = batch.header.seq == position.seq + 1
        if isNew {
            let next = position.advanced(by: batch)
            try applying.withLock { _ in
                try writeEvents(batch, partition, next)
                known.withLock { $0[partition] = next }
            }
        }
        features.withLock { cell in
            batch.forEachChange { change in
                if change.kind == .tile || change.kind == .sharedTile {
                    _ = cell.state.apply(change, partition: partition)
                }
            }
        }
        if let tile = tilePositions[partition], tile.seq + 1 == batch.header.seq {
            tilePositions[partition] = tile.advanced(by: batch)
        }
        if busSequence > 0 { self.busSequence = busSequence }
        return feeds[partition].didApply(batch.header.seq, now: now)
    }

    private func writeEvents(_ batch: ChangeBatch, _ partition: Int, _ position: AppliedPosition) throws {
        rows.clear()
        var replaced: [(tenant: Int, key: EventKey)] = []
        try batch.forEachChange { change in
            guard change.kind == .event else { return }
            let (tenant, id) = unsafe change.tenantAndRest
            let identifier = unsafe [View.Prefix.identifier] + Array(change.key)
            let older = try unsafe view.store.get(identifier) { unsafe EventKey(value: $0) } ?? nil
            if let older {
                unsafe older.row(tenant: tenant).withUnsafeBytes { unsafe rows.delete($0) }
                unsafe rows.put(older.deletedRow(tenant: tenant), [])
                if let index = unsafe tenantIndex(tenant) { replaced.append((index, older)) }
            }
            guard change.operation == .upsert, let record = unsafe EventRecord(change.value),
                record.eventTime >= vectors.oldestKept
            else {
                unsafe identifier.withUnsafeBytes { unsafe rows.delete($0) }
                return
            }
            let key = EventKey(time: record.eventTime, partition: partition, offset: record.inputOffset)
            // id length, id, record length, record, vector: the row is complete by itself.
            var value: [UInt8] = [UInt8(id.count)]
            unsafe value.reserveCapacity(5 + id.count + change.value.count + change.vector.count)
            unsafe value.append(contentsOf: id)
            unsafe withUnsafeBytes(of: UInt32(change.value.count).littleEndian) { unsafe value.append(contentsOf: $0) }
            unsafe value.append(contentsOf: change.value)
            unsafe value.append(contentsOf: change.vector)
            unsafe rows.put(key.row(tenant: tenant), value)
            rows.put(identifier, key.bytes)
        }
        try view.write(rows, .events, partition: UInt32(partition), position: position)
        // A vector is found only once its row is there.
        for (tenant, key) in replaced { vectors.delete(key, tenant: tenant) }
        batch.forEachChange { change in
            guard change.kind == .event, change.operation == .upsert, let record = unsafe EventRecord(change.value),
                let tenant = unsafe tenantIndex(change.tenantAndRest.tenant)
            else { return }
            unsafe vectors.put(record, change.vector, partition: partition, tenant: tenant)
        }
    }

    private func tenantIndex(_ name: UnsafeRawBufferPointer) -> Int? {
        pipeline.tenants.firstIndex { tenant in
            var tenant = tenant
            return tenant.withUTF8 { unsafe $0.count == name.count && $0.elementsEqual(name) }
        }
    }

    // MARK: the vectors

    /// The newest vectors of each tenant come back from the rows on disk: those that no segment holds.
    ///
    /// Rows lie in the order of event time. The walk ends after many that segments hold, one after another: of what came
    /// still later than those, vectors are found again with the next snapshot.
    ///
    /// - Parameter whole: whether to walk over all, as a sealer must.
    /// - Returns: tenants that have more such rows than their tail takes.
    @discardableResult
    func refillTails(_ log: Log, whole: Bool = false) throws -> Set<Int> {
        var cut: Set<Int> = []
        let sealed = vectors.sealed
        for (index, tenant) in pipeline.tenants.enumerated() {
            let prefix = EventKey.prefix(tenant: tenant)
            let iterator = StoreIterator(view.store)
            iterator.seekBack(prefix + [UInt8](repeating: 0xFF, count: 16))
            var count = 0
            var held = 0
            while iterator.isValid, unsafe iterator.key.starts(with: prefix),
                count < pipeline.limits.tailVectorsMax, whole || held < Self.heldInARowMax
            {
                if let key = unsafe EventKey(row: iterator.key) {
                    if sealed.holds(key.place) {
                        held += 1
                    } else if let row = unsafe EventRow(iterator.value) {
                        unsafe vectors.put(row.record, row.vector, partition: key.partition, tenant: index)
                        count += 1
                        held = 0
                    }
                }
                iterator.previous()
            }
            try iterator.check()
            if count == pipeline.limits.tailVectorsMax { cut.insert(index) }
            if count > 0 { log.info("vectors are back in memory", ["tenant": tenant, "count": count]) }
        }
        return cut
    }

    private static let heldInARowMax = 200_000

    /// Visits a tenant's rows on disk that a snapshot does not hold, in the order of time.
    func forEachUnsealed(
        _ tenant: Int, _ sealed: ReplicaVectors.Sealed, _ visit: (EventKey, EventRow) -> Void
    ) throws {
        let prefix = EventKey.prefix(tenant: pipeline.tenants[tenant])
        try unsafe StoreIterator(view.store).forEach(prefix: prefix) { key, value in
            if let key = unsafe EventKey(row: key), !sealed.holds(key.place), let row = unsafe EventRow(value) {
                visit(key, row)
            }
            return true
        }
    }

    /// Rows of a tenant that are gone although a segment may hold their vectors.
    func deletedRows(_ tenant: Int) throws -> [UInt64] {
        var places: [UInt64] = []
        try unsafe forEachDeletedRow(tenant) { _, place, _ in places.append(place) }
        return places
    }

    private func forEachDeletedRow(
        _ tenant: Int, _ visit: (_ key: UnsafeRawBufferPointer, _ place: UInt64, _ goneSince: UInt64?) -> Void
    ) throws {
        var tenant = pipeline.tenants[tenant]
        let prefix = tenant.withUTF8 { unsafe EventKey.deletedPrefix(tenant: UnsafeRawBufferPointer($0)) }
        try unsafe StoreIterator(view.store).forEach(prefix: prefix) { key, value in
            if key.count == prefix.count + 8 {
                let place = unsafe UInt64(bigEndian: key.loadUnaligned(fromByteOffset: prefix.count, as: UInt64.self))
                let goneSince =
                    value.count == 8 ? unsafe UInt64(littleEndian: value.loadUnaligned(as: UInt64.self)) : nil
                unsafe visit(key, place, goneSince)
            }
            return true
        }
    }

    /// Forgets deleted rows that no snapshot holds any more to which this region may still go back.
    ///
    /// Where no segment holds one first, the snapshot's number is noted; it goes when none older is kept.
    ///
    /// - Parameter oldestKept: the number of the oldest snapshot on the disk.
    func forgetDeletedRows(oldestKept: UInt64) throws {
        let (sealed, snapshot) = (vectors.sealed, vectors.snapshot)
        let changes = StoreBatch()
        for tenant in pipeline.tenants.indices {
            let segments = vectors.collection(tenant).segments
            try unsafe forEachDeletedRow(tenant) { key, place, goneSince in
                guard sealed.holds(place), !segments.contains(where: { $0.segment.find(place) != nil }) else { return }
                if goneSince == nil {
                    unsafe changes.put(Array(key), withUnsafeBytes(of: snapshot.littleEndian) { unsafe Array($0) })
                } else if let goneSince, goneSince <= oldestKept {
                    unsafe changes.delete(key)
                }
            }
        }
        if changes.count > 0 { try view.write(ahead: changes) }
    }

    /// Remembers again which rows of a new segment are gone. A sealer that began anew may have sealed some before they were
    /// replaced, and this replica has forgotten them with the last of the former sealer's segments.
    ///
    /// On the disk before it returns: the segment may serve next, and be opened again after a crash.
    func rememberGone(in segment: Segment, tenant: Int) throws {
        let applied = ReplicaVectors.Sealed(offsets: frontier.map { $0?.endOffset ?? 0 })
        let (known, oldest) = (vectors.collection(tenant), vectors.oldestKept)
        var name = pipeline.tenants[tenant]
        let changes = StoreBatch()
        try name.withUTF8 { name in
            let name = UnsafeRawBufferPointer(name)
            for index in 0..<segment.count {
                let row = segment.row(index)
                let key = EventKey(time: row.time, place: row.id)
                // What has not been applied yet is not gone, what is too old ends without this, and most of what a merge
                // brings is found here: the store is asked for the others alone.
                guard row.time >= oldest, applied.holds(key.place), !known.contains(key.place),
                    try unsafe view.store.get(key.row(tenant: name), { _ in true }) == nil,
                    try unsafe view.store.get(key.deletedRow(tenant: name), { _ in true }) == nil
                else { continue }
                unsafe changes.put(key.deletedRow(tenant: name), [])
            }
        }
        guard changes.count > 0 else { return }
        try view.write(ahead: changes)
        try view.store.flush()
    }

    /// Runs `body` between two batches: what it sees of positions, rows and vectors belongs together.
    func betweenBatches<Result>(_ body: ([AppliedPosition?]) throws -> Result) rethrows -> Result {
        try applying.withLock { _ in try body(frontier) }
    }

    // MARK: the feeds

    func withFeed<Result>(_ partition: Int, _ change: (inout ReplicaFeed) -> Result) -> Result {
        change(&feeds[partition])
    }

    /// Every partition has what its log is known to have.
    var isComplete: Bool { feeds.allSatisfy(\.isComplete) }

    /// Does a small part of writing tiles to disk, and of letting old events go, when it is due.
    func proceed(now: Int64) throws {
        try expiry.proceed(view, vectors, watermark: frontier.lazy.compactMap { $0?.watermark }.max() ?? 0, now: now)
        try features.withLock { _ in
            try tiles.proceed(
                positions: tilePositions, now: now,
                finishing: { _, _, rows in
                    putBusSequence(into: rows)
                })
        }
    }

    /// Writes everything, before a planned stop.
    func close(now: Int64) throws {
        try features.withLock { _ in
            try tiles.complete(
                positions: tilePositions, now: now,
                finishing: { _, _, rows in
                    putBusSequence(into: rows)
                })
        }
    }

    private func putBusSequence(into rows: borrowing StoreBatch) {
        guard let busSequence else { return }
        unsafe rows.put([View.Prefix.meta], withUnsafeBytes(of: busSequence.littleEndian) { unsafe Array($0) })
    }

    // MARK: reading

    /// What an event would score here and now, from replicated features, without a trace.
    func preview(_ event: UnsafeRawBufferPointer, now: Int64) throws(EventRefusal) -> Provisional {
        let outcome: Result<Provisional, EventRefusal> = features.withLock { cell in
            if let refusal = unsafe cell.decoder.decode(event, readable: event.count) { return .failure(refusal) }
            guard let tenant = cell.decoder.tenant else { return .failure(EventRefusal("unknown tenant")) }
            let partition = cell.state.home(of: cell.decoder, tenant: tenant)
            let time = pipeline.limits.effectiveTime(cell.decoder.time, takenAt: now).time
            var row = [Float](repeating: .nan, count: pipeline.features.count)
            unsafe row.withUnsafeMutableBufferPointer { buffer in
                if let base = buffer.baseAddress {
                    unsafe cell.state.preview(cell.decoder, tenant: tenant, partition: partition, time: time, row: base)
                }
            }
            var provisional = unsafe Provisional(
                id: String(decoding: cell.decoder.id, as: UTF8.self), tenant: tenant, time: cell.decoder.time,
                score: .nan, features: row, vector: Array(cell.decoder.vector), reasons: [])
            if let model, let scratch = cell.scratch {
                provisional.score(
                    by: model, scratch: scratch, reasonsMax: pipeline.reasonsMax,
                    embeds: pipeline.embedding.column == nil)
            }
            return .success(provisional)
        }
        return try outcome.get()
    }

    /// The features that the entity's windows give at `time`, by name; `nil` for an entity that was never seen.
    func entity(kind: Int, id: String, tenant: Int, time: Int64) -> (
        last: Int64, features: [(name: String, value: Float)]
    )? {
        features.withLock { cell in cell.state.summary(entity: kind, id: id, tenant: tenant, time: time) }
    }

    var memoryBytes: Int { features.withLock { $0.state.memoryBytes } }
    var entityCount: Int { features.withLock { $0.state.entityCount } }
}

/// An event's row on disk.
@safe struct EventRow {
    let id: UnsafeRawBufferPointer
    let record: EventRecord
    let vector: UnsafeRawBufferPointer

    init?(_ bytes: UnsafeRawBufferPointer) {
        var reader = unsafe ByteReader(bytes)
        guard let length = reader.read(UInt8.self), let id = unsafe reader.read(count: Int(length)),
            let size = reader.read(UInt32.self), let record = unsafe reader.read(count: Int(size)),
            let parsed = unsafe EventRecord(record), let vector = unsafe reader.read(count: reader.remaining)
        else { return nil }
        unsafe self.id = unsafe id
        self.record = parsed
        unsafe self.vector = unsafe vector
    }
}

/// A score given at the edge: provisional, since nothing was written.
struct Provisional {
    var id: String
    var tenant: Int
    var time: Int64
    var score: Float
    var features: [Float]
    var vector: [Float]
    var reasons: [(name: String, contribution: Float)]

    mutating func score(by model: ScoringModel, scratch: ForestScratch, reasonsMax: Int, embeds: Bool) {
        let row = model.order.map { order in order.map { features[Int($0)] } } ?? features
        var outputs: [Float] = [.nan]
        var places = [Float](repeating: 0, count: model.forest.embeddingDimension)
        unsafe places.withUnsafeMutableBufferPointer { places in
            unsafe model.forest.evaluate(
                rows: row, count: 1, stride: row.count, scratch: scratch, outputs: &outputs,
                embeddings: places.baseAddress)
        }
        score = outputs[0]
        // A pipeline whose events bring their vectors compares by those.
        if embeds { vector = places }
        reasons = unsafe model.forest.reasons(row: row, top: reasonsMax).map { ($0.name, $0.contribution) }
    }
}
