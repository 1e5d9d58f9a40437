import Changes
import Features
import Service
import Storage
import Vectors
internal import Synchronization

/// A replica's vectors, by tenant: sealed segments, and the tail of what came since.
///
/// A row is named by its place in the input and never changes, so no row has two versions: an event id that comes again
/// is another row, and the one before it is deleted. One thread writes; any number search; another may install segments.
final class ReplicaVectors: Sendable {
    /// A segment and the file that it was opened from; files that several snapshots have are opened once.
    struct Part: Sendable {
        /// Its SHA-256; empty for one that was sealed here and has no file any more.
        var file: String
        var live: LiveSegment
    }

    /// What the segments hold: all rows below these input offsets, by partition.
    struct Sealed: Sendable {
        var offsets: [UInt64] = []
        /// By partition, the seq up to which rows that were replaced or deleted are not in them.
        var seqs: [UInt64] = []

        /// Where each partition goes on.
        func starts(partitions: Int) -> [UInt64] { (0..<partitions).map { $0 < offsets.count ? offsets[$0] : 0 } }

        func holds(_ place: UInt64) -> Bool {
            let partition = EventKey.partition(of: place)
            return partition < offsets.count && place & EventKey.offsetMask < offsets[partition]
        }

        /// Whether this holds less than `other` of some partition.
        func isBehind(_ other: Sealed) -> Bool {
            zip(starts(partitions: other.offsets.count), other.offsets).contains { $0 < $1 }
        }
    }

    private struct Parts {
        /// By tenant, the oldest first.
        var shipped: [[Part]]
        var own: [[Part]]
        var sealed = Sealed()
        var snapshot: UInt64 = 0
    }

    let pipeline: Pipeline
    let dimensions: Int
    let metric: Metric
    private let shelves: [VectorShelf]
    private let parts: Mutex<Parts>
    private let horizon = Atomic<Int64>(.min)
    private let entityColumn: Int

    /// - Parameter dimensions: 0 where events have no vectors.
    init(_ pipeline: Pipeline, dimensions: Int) {
        self.pipeline = pipeline
        self.dimensions = dimensions
        metric = Metric(pipeline.embedding.metric)
        entityColumn = pipeline.entities.first?.column ?? -1
        parts = Mutex(Parts(shipped: pipeline.tenants.map { _ in [] }, own: pipeline.tenants.map { _ in [] }))
        shelves = pipeline.tenants.map { [metric] _ in
            VectorShelf(VectorCollection(live: [], tail: Self.makeTail(pipeline, dimensions, metric)))
        }
    }

    private static func makeTail(_ pipeline: Pipeline, _ dimensions: Int, _ metric: Metric) -> VectorTail {
        VectorTail(dimensions: max(1, dimensions), metric: metric, rowsMax: pipeline.limits.tailVectorsMax)
    }

    private func makeTail() -> VectorTail { Self.makeTail(pipeline, dimensions, metric) }

    // MARK: what is there

    func collection(_ tenant: Int) -> VectorCollection { shelves[tenant].collection }

    /// Segments that are searched.
    var segments: Int { shelves.reduce(0) { $0 + $1.collection.segments.count } }
    var rows: Int { shelves.reduce(0) { $0 + $1.collection.count } }
    var tailRows: Int { shelves.reduce(0) { $0 + $1.collection.tail.counts.rows } }

    /// The snapshot that serves; 0 for none.
    var snapshot: UInt64 { parts.withLock { $0.snapshot } }
    var sealed: Sealed { parts.withLock { $0.sealed } }

    /// The open segments of snapshots, by tenant.
    var shipped: [[Part]] { parts.withLock { $0.shipped } }
    /// Segments that were sealed here.
    var own: [[Part]] { parts.withLock { $0.own } }

    /// What all segments take together.
    var facts: SegmentFacts {
        var sum = SegmentFacts()
        for part in shelves.flatMap(\.collection.segments) { sum += part.segment.facts }
        return sum
    }

    // MARK: writing, by the applier

    func put(_ record: EventRecord, _ vector: UnsafeRawBufferPointer, partition: Int, tenant: Int) {
        guard vector.count > 0, record.eventTime >= oldestKept else { return }
        let row = tailRow(of: record, partition: partition, tenant: tenant)
        // What no segment holds need not be looked for there. What one holds is sent again to a region that came back with an
        // older view: rows never change.
        let isNew = !parts.withLock { $0.sealed.holds(row.id) }
        if !isNew, shelves[tenant].collection.isSealed(row.id) { return }
        _ = unsafe Self.withFloats(vector) { unsafe shelves[tenant].put(row, $0, isNew: isNew) }
    }

    private func tailRow(of record: EventRecord, partition: Int, tenant: Int) -> VectorRow {
        let key = EventKey(time: record.eventTime, partition: partition, offset: record.inputOffset)
        return VectorRow(
            id: key.place, time: record.eventTime, score: record.score, flags: record.flags.rawValue,
            tenant: UInt32(tenant), entity: entity(of: record), label: Self.label(flagged: record.flags))
    }

    private static func withFloats<Result>(
        _ bytes: UnsafeRawBufferPointer, _ body: (UnsafeBufferPointer<Float>) -> Result
    ) -> Result {
        unsafe withUnsafeTemporaryAllocation(of: Float.self, capacity: bytes.count / 4) { floats in
            unsafe UnsafeMutableRawBufferPointer(floats).copyMemory(from: bytes)
            return unsafe body(UnsafeBufferPointer(floats))
        }
    }

    /// A row as segments have it; `nil` for one that is too old.
    func describe(_ record: EventRecord, _ key: EventKey) -> SegmentRow? {
        guard record.eventTime >= oldestKept else { return nil }
        return SegmentRow(
            id: key.place, time: record.eventTime, score: record.score, label: Self.label(flagged: record.flags),
            entity: entity(of: record))
    }

    func delete(_ key: EventKey, tenant: Int) { shelves[tenant].delete(key.place) }

    /// Rows older than this are no longer taken; those that there are go by `delete`.
    var oldestKept: Int64 {
        get { horizon.load(ordering: .relaxed) }
        set { horizon.store(newValue, ordering: .relaxed) }
    }

    /// What a filter by label asks for.
    static func label(flagged flags: EventRecord.Flags) -> UInt32 { flags.contains(.flagged) ? 1 : 0 }

    /// What a filter by entity asks for.
    static func entity(_ id: UnsafeRawBufferPointer) -> UInt64 { unsafe stableHash(id) }

    /// The primary entity's hash; 0 where the record does not say it.
    private func entity(of record: EventRecord) -> UInt64 {
        var hash: UInt64 = 0
        unsafe KeptFields.forEachStored(in: record.fields, of: pipeline) { column, value in
            if column == entityColumn, case .text(let text) = value { hash = unsafe Self.entity(text) }
        }
        return hash
    }

    // MARK: segments

    /// Puts a snapshot's segments in place of those of the one before, while writing and searching go on. One thread alone
    /// installs.
    ///
    /// One that holds less than the one before loses nothing: where a sealer begins anew, what it has not sealed again stays
    /// in the segments that there are; where an operator goes back, it comes from the rows on disk into the tail, since
    /// nobody trusts those segments.
    ///
    /// - Parameters:
    ///   - segments: by tenant, the oldest first.
    ///   - deleted: rows of a tenant that are gone although a segment may hold them; asked for when it is time.
    ///   - unsealed: visits a tenant's rows on disk that a snapshot does not hold.
    func install(
        _ segments: [[Part]], snapshot: UInt64, sealed: Sealed, deleted: (_ tenant: Int) throws -> [UInt64],
        unsealed: (_ tenant: Int, Sealed, _ visit: (EventKey, EventRow) -> Void) throws -> Void
    ) rethrows {
        let formerly = parts.withLock { $0 }
        let before = formerly.shipped
        var own = formerly.own
        let holdsLess = sealed.isBehind(formerly.sealed)
        for tenant in shelves.indices {
            let known = Set(before[tenant].map(\.file))
            try shelves[tenant].replace { old in
                let gone = try deleted(tenant)
                for part in segments[tenant] where !known.contains(part.file) {
                    part.live.end(before: oldestKept)
                    for id in gone { part.live.end(id) }
                }
                let tail = makeTail()
                let shipped = VectorCollection(live: segments[tenant].map(\.live), tail: tail)
                // A row that is live in the tail, or in a segment of our own, is live afterwards, wherever it is.
                func isTakenOver(_ id: UInt64) -> Bool { sealed.holds(id) && shipped.isSealed(id) }
                own[tenant] = own[tenant].map { part in
                    Part(file: part.file, live: part.live.ending(where: isTakenOver))
                }
                if holdsLess, snapshot > formerly.snapshot {
                    let kept = Set(segments[tenant].map(\.file))
                    own[tenant] += before[tenant].filter { !kept.contains($0.file) }.map { part in
                        Part(file: "", live: part.live.ending(where: isTakenOver))
                    }
                }
                own[tenant].removeAll { $0.live.count == 0 }
                if holdsLess, snapshot < formerly.snapshot {
                    let sealedHere = VectorCollection(live: own[tenant].map(\.live), tail: tail)
                    try unsealed(tenant, sealed) { key, row in
                        guard !sealedHere.isSealed(key.place), unsafe row.vector.count == dimensions * 4 else { return }
                        let described = tailRow(of: row.record, partition: key.partition, tenant: tenant)
                        _ = unsafe Self.withFloats(row.vector) { unsafe tail.put(described, $0) }
                    }
                }
                unsafe old.tail.contents.forEach { row, vector in
                    if !isTakenOver(row.id) { unsafe tail.put(row, vector) }
                }
                return VectorCollection(live: (segments[tenant] + own[tenant]).map(\.live), tail: tail)
            }
        }
        parts.withLock {
            $0.shipped = segments
            $0.own = own
            $0.sealed = sealed
            $0.snapshot = snapshot
        }
    }

    /// Puts a segment that was sealed here in place of the rows of the tail that it holds, or of others sealed here.
    func install(
        own segment: Segment, tenant: Int, replacing replaced: [Int], deleted: (_ tenant: Int) throws -> [UInt64]
    ) rethrows {
        let part = Part(file: "", live: LiveSegment(segment))
        var (shipped, own) = parts.withLock { ($0.shipped[tenant], $0.own[tenant]) }
        own = own.indices.filter { !replaced.contains($0) }.map { own[$0] } + [part]
        try shelves[tenant].replace { old in
            for id in try deleted(tenant) { part.live.end(id) }
            part.live.end(before: oldestKept)
            let tail = makeTail()
            unsafe old.tail.contents.forEach { row, vector in
                if segment.find(row.id) == nil { unsafe tail.put(row, vector) }
            }
            return VectorCollection(live: (shipped + own).map(\.live), tail: tail)
        }
        parts.withLock { $0.own[tenant] = own }
    }
}

extension Metric {
    fileprivate init(_ metric: Pipeline.Embedding.Metric) {
        switch metric {
        case .l2: self = .squaredL2
        case .cosine: self = .cosine
        case .innerProduct: self = .innerProduct
        }
    }
}
