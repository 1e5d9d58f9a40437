import Changes
import Storage

/// The disk side of a feature state: tiles reach the view in sweeps of small steps between batches.
///
/// A sweep begins at a frontier and writes each entity that changed since the last one; rows written later in the sweep
/// may lead that frontier, which is harmless since they are absolute and a replay makes them again. When all are
/// written, the frontier at which the sweep began is written. The core and the edges persist their state by this code.
///
/// A sweep is spread over half the time until the next one: as fast as it can be, it kept each thread of a world busy for
/// the same second, in which events and queries waited for a processor.
package final class TileView {
    private let view: View
    private let state: FeatureState
    private var sweeping: [AppliedPosition?]?
    private var sweepBegan: Int64 = 0
    private var sweepCount = 0
    private let rows = StoreBatch()
    private let intervalMicroseconds: Int64
    /// What the rows on the disk may hold of each partition, beyond its frontier: a seq.
    package private(set) var reach: [UInt64] = []
    private static let reachKey = [View.Prefix.meta, UInt8(ascii: "r")]
    private static let entitiesPerStep = 64

    package init(_ view: View, state: FeatureState, intervalMicroseconds: Int64 = 5_000_000) {
        self.view = view
        self.state = state
        self.intervalMicroseconds = intervalMicroseconds
    }

    /// Loads the tiles of this lineage, and gives each partition's position; `nil` where there is none yet.
    package func restore(lineage: Lineage) throws -> [AppliedPosition?] {
        let positions = try (0..<state.partitions).map { try view.position(.tiles, partition: UInt32($0)) }
        for position in positions {
            if let position, position.lineage != lineage { throw ForeignView(path: view.store.path) }
        }
        reach =
            try unsafe view.store.get(Self.reachKey) { bytes in
                var reader = unsafe ByteReader(bytes)
                return (0..<state.partitions).map { _ in reader.read(UInt64.self) ?? 0 }
            } ?? Array(repeating: 0, count: state.partitions)
        try unsafe StoreIterator(view.store).forEach(prefix: [View.Prefix.tile]) { key, value in
            guard unsafe state.restore(storageKey: UnsafeRawBufferPointer(rebasing: key[1...]), value: value) else {
                throw StoreError(operation: "restore \(view.store.path)", message: "a tile row cannot be read")
            }
            return true
        }
        unsafe state.load = { [view] key, use in
            // A store that cannot be read ends its role at the next write; an entity that was never stored is empty.
            _ = try? unsafe view.store.get([View.Prefix.tile] + Array(key)) { unsafe use($0) }
        }
        return positions
    }

    /// Does a small part of a sweep when one is due. Call between batches.
    ///
    /// `started` is called when a sweep begins, `finishing` for each partition before its frontier is written: what it
    /// puts into the batch goes with the frontier.
    package func proceed(
        positions: [AppliedPosition?], now: Int64, started: () -> Void = {},
        finishing: (_ partition: Int, _ position: AppliedPosition, borrowing StoreBatch) throws -> Void = { _, _, _ in }
    ) throws {
        if sweeping == nil {
            // A clock that was set back is no reason to wait.
            guard !(0..<intervalMicroseconds).contains(now - sweepBegan) else { return }
            begin(positions, now: now, started)
        }
        try step(min(entitiesDue(now: now), Self.entitiesPerStep), positions)
        if state.sweepRemaining == 0 { try finish(finishing) }
    }

    /// Writes everything, before a planned stop.
    package func complete(
        positions: [AppliedPosition?], now: Int64, started: () -> Void = {},
        finishing: (_ partition: Int, _ position: AppliedPosition, borrowing StoreBatch) throws -> Void = { _, _, _ in }
    ) throws {
        if sweeping != nil {
            try step(.max, positions)
            try finish(finishing)
        }
        begin(positions, now: now, started)
        try step(.max, positions)
        try finish(finishing)
        try view.store.flush()
    }

    private func begin(_ positions: [AppliedPosition?], now: Int64, _ started: () -> Void) {
        sweeping = positions
        sweepBegan = now
        started()
        state.beginSweep()
        sweepCount = state.sweepRemaining
    }

    /// How many entities the sweep is behind: it takes half the interval.
    private func entitiesDue(now: Int64) -> Int {
        let span = intervalMicroseconds / 2
        let elapsed = now - sweepBegan
        guard (0..<span).contains(elapsed) else { return state.sweepRemaining }
        return max(0, sweepCount * Int(elapsed) / Int(span) - (sweepCount - state.sweepRemaining))
    }

    private func step(_ entities: Int, _ positions: [AppliedPosition?]) throws {
        rows.clear()
        unsafe state.continueSweep(max: entities) { key, value in
            unsafe ([View.Prefix.tile] + Array(key)).withUnsafeBytes { unsafe rows.put($0, value) }
        }
        guard rows.count > 0 else { return }
        var reach = ByteWriter(capacity: 8 * positions.count)
        for position in positions { reach.append(position?.seq ?? 0) }
        unsafe rows.put(Self.reachKey, Array(reach.bytes))
        try view.write(ahead: rows)
    }

    private func finish(
        _ finishing: (_ partition: Int, _ position: AppliedPosition, borrowing StoreBatch) throws -> Void
    ) throws {
        for (partition, position) in (sweeping ?? []).enumerated() {
            guard let position else { continue }
            rows.clear()
            try finishing(partition, position, rows)
            try view.write(rows, .tiles, partition: UInt32(partition), position: position)
        }
        sweeping = nil
        _ = state.evict(to: state.pipeline.limits.entitiesInMemoryMax)
    }
}

/// The view in the folder belongs to another log.
package struct ForeignView: Error, CustomStringConvertible {
    let path: String

    package init(path: String) { self.path = path }

    package var description: String {
        "\(path) is the view of another log; move it away, and it is rebuilt from the log at the next start"
    }
}
