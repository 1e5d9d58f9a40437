import Changes
import Features
import Service
import Storage

/// The core's view on disk: tiles and event ids reach it in sweeps of small steps between batches.
///
/// A sweep begins at a frontier and writes each entity that changed since the last one; rows written later in the sweep
/// may lead that frontier, which is harmless since they are absolute and a replay makes them again. When all are
/// written, the frontier at which the sweep began and the ids up to it are written as one step.
final class CoreCheckpoint {
    private let view: View
    private let assembler: Assembler
    private var restored: [Int: AppliedPosition] = [:]
    private var sweeping: [AppliedPosition?] = []
    private var seenUpTo: [UInt64] = []
    private var seenTarget: [UInt64] = []
    private var nextSweep: Int64 = 0
    private var inSweep = false
    private let rows = StoreBatch()
    private static let intervalMicroseconds: Int64 = 5_000_000
    private static let entitiesPerStep = 64

    init(_ view: View, assembler: Assembler) {
        self.view = view
        self.assembler = assembler
        seenUpTo = Array(repeating: 0, count: assembler.state.partitions)
    }

    func position(of partition: Int) -> AppliedPosition? { restored[partition] }

    /// Loads what the view holds of this lineage. A view of another log is not touched: it is an error.
    func restore(lineage: Lineage) throws {
        let state = assembler.state
        for partition in 0..<state.partitions {
            guard let position = try view.position(.tiles, partition: UInt32(partition)) else { continue }
            guard position.lineage == lineage else { throw ForeignView(path: view.store.path) }
            restored[partition] = position
        }
        let iterator = StoreIterator(view.store)
        try unsafe iterator.forEach(prefix: [View.Prefix.tile]) { key, value in
            guard unsafe state.restore(storageKey: UnsafeRawBufferPointer(rebasing: key[1...]), value: value) else {
                throw StoreError(operation: "restore \(view.store.path)", message: "a tile row cannot be read")
            }
            return true
        }
        try unsafe iterator.forEach(prefix: [View.Prefix.seen]) { key, value in
            var reader = unsafe ByteReader(UnsafeRawBufferPointer(rebasing: key[1...]))
            guard let partition = reader.read(UInt32.self).map({ Int(UInt32(bigEndian: $0)) }),
                partition < state.partitions
            else { return true }
            let seen = assembler.seenIds(of: partition)
            var entries = unsafe ByteReader(value)
            var latest: Int64 = 0
            while let low = entries.read(UInt64.self), let high = entries.read(UInt64.self),
                let time = entries.read(Int64.self)
            {
                _ = seen.insert(IdentityHash(low: low, high: high), time: time)
                latest = max(latest, time)
            }
            seen.commit(now: latest)
            seenUpTo[partition] = seen.position
            return true
        }
        unsafe state.load = { [view] key, use in
            // An entity that was evicted; a store that cannot be read ends the core at its next write.
            _ = try? unsafe view.store.get([View.Prefix.tile] + Array(key)) { unsafe use($0) }
        }
    }

    /// Does a small part of a sweep, when one is due. Call between batches.
    func proceed(positions: [AppliedPosition?], now: Int64) throws {
        if !inSweep {
            guard now >= nextSweep else { return }
            begin(positions: positions, now: now)
        }
        try step(Self.entitiesPerStep)
        if assembler.state.sweepRemaining == 0 { try finishSweep(now: now) }
    }

    func finish(positions: [AppliedPosition?], now: Int64) throws {
        if inSweep {
            try step(.max)
            try finishSweep(now: now)
        }
        begin(positions: positions, now: now)
        try step(.max)
        try finishSweep(now: now)
        try view.store.flush()
    }

    private func begin(positions: [AppliedPosition?], now: Int64) {
        inSweep = true
        nextSweep = now + Self.intervalMicroseconds
        sweeping = positions
        seenTarget = (0..<positions.count).map { assembler.seenIds(of: $0).position }
        assembler.state.beginSweep()
    }

    private func step(_ entities: Int) throws {
        rows.clear()
        unsafe assembler.state.continueSweep(max: entities) { key, value in
            unsafe ([View.Prefix.tile] + Array(key)).withUnsafeBytes { unsafe rows.put($0, value) }
        }
        if rows.count > 0 { try view.write(ahead: rows) }
    }

    private func finishSweep(now: Int64) throws {
        inSweep = false
        for (partition, position) in sweeping.enumerated() {
            guard let position else { continue }
            rows.clear()
            let seen = assembler.seenIds(of: partition)
            let entries = seen.entries(since: seenUpTo[partition])
                .prefix(Int(seenTarget[partition] - min(seenTarget[partition], seenUpTo[partition])))
            if !entries.isEmpty {
                var value = ByteWriter(capacity: entries.count * 24)
                for entry in entries {
                    value.append(entry.hash.low)
                    value.append(entry.hash.high)
                    value.append(entry.time)
                }
                rows.put(Self.seenKey(partition, position.seq), unsafe Array(value.bytes))
            }
            seenUpTo[partition] = seenTarget[partition]
            try expire(partition, before: now - assembler.pipeline.limits.duplicateWindowMicroseconds)
            try view.write(rows, .tiles, partition: UInt32(partition), position: position)
        }
        _ = assembler.state.evict(to: assembler.pipeline.limits.entitiesInMemoryMax)
    }

    /// Deletes rows of ids that are all older than the window.
    private func expire(_ partition: Int, before: Int64) throws {
        let iterator = StoreIterator(view.store)
        let prefix = unsafe [View.Prefix.seen] + withUnsafeBytes(of: UInt32(partition).bigEndian) { unsafe Array($0) }
        try unsafe iterator.forEach(prefix: prefix) { key, value in
            guard value.count >= 8 else { return true }
            let latest = unsafe Int64(
                littleEndian: value.loadUnaligned(fromByteOffset: value.count - 8, as: Int64.self))
            guard latest < before else { return false }
            unsafe rows.delete(key)
            return true
        }
    }

    private static func seenKey(_ partition: Int, _ seq: UInt64) -> [UInt8] {
        var key = [View.Prefix.seen]
        unsafe withUnsafeBytes(of: UInt32(partition).bigEndian) { unsafe key.append(contentsOf: $0) }
        unsafe withUnsafeBytes(of: seq.bigEndian) { unsafe key.append(contentsOf: $0) }
        return key
    }
}

/// The view in the folder belongs to another log.
package struct ForeignView: Error, CustomStringConvertible {
    let path: String

    package var description: String {
        "\(path) is the view of another log; move it away, and it is rebuilt from the log at the next start"
    }
}
