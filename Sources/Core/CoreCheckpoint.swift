import Changes
import Features
import Service
import Storage

/// The core's view on disk: its tiles, and beside them the event ids of the recent past, up to the same frontier.
final class CoreCheckpoint {
    private let view: View
    private let assembler: Assembler
    private let tiles: TileView
    private var restored: [AppliedPosition?] = []
    /// Positions among the seen ids: what the disk has, and what it has after the sweep under way.
    private var seenUpTo: [UInt64]
    private var seenTarget: [UInt64]

    init(_ view: View, assembler: Assembler) {
        self.view = view
        self.assembler = assembler
        tiles = TileView(view, state: assembler.state)
        seenUpTo = Array(repeating: 0, count: assembler.state.partitions)
        seenTarget = seenUpTo
    }

    /// The batch up to which the rows that were loaded may know the partition, beyond its position.
    func reach(of partition: Int) -> UInt64 { tiles.reach[partition] }

    func position(of partition: Int) -> AppliedPosition? { restored[partition] }

    /// Loads what the view holds of this lineage. A view of another log is not touched: it is an error.
    func restore(lineage: Lineage) throws {
        restored = try tiles.restore(lineage: lineage)
        var remembered: [[SeenIds.Entry]] = Array(repeating: [], count: assembler.state.partitions)
        let iterator = StoreIterator(view.store)
        try unsafe iterator.forEach(prefix: [View.Prefix.seen]) { key, value in
            var reader = unsafe ByteReader(UnsafeRawBufferPointer(rebasing: key[1...]))
            guard let partition = reader.read(UInt32.self).map({ Int(UInt32(bigEndian: $0)) }),
                partition < assembler.state.partitions
            else { return true }
            var entries = unsafe ByteReader(value)
            while let low = entries.read(UInt64.self), let high = entries.read(UInt64.self),
                let time = entries.read(Int64.self)
            {
                remembered[partition].append(SeenIds.Entry(hash: IdentityHash(low: low, high: high), time: time))
            }
            return true
        }
        for (partition, entries) in remembered.enumerated() {
            assembler.seenIds(of: partition).restore(entries)
            seenUpTo[partition] = assembler.seenIds(of: partition).position
        }
    }

    func proceed(positions: [AppliedPosition?], now: Int64) throws {
        try tiles.proceed(positions: positions, now: now, started: markSeen) { partition, position, rows in
            try putSeen(partition, position, into: rows)
        }
    }

    func finish(positions: [AppliedPosition?], now: Int64) throws {
        try tiles.complete(positions: positions, now: now, started: markSeen) { partition, position, rows in
            try putSeen(partition, position, into: rows)
        }
    }

    private func markSeen() { seenTarget = seenTarget.indices.map { assembler.seenIds(of: $0).position } }

    private func putSeen(
        _ partition: Int, _ position: AppliedPosition, into rows: borrowing StoreBatch
    ) throws {
        let from = seenUpTo[partition]
        let target = seenTarget[partition]
        let entries = assembler.seenIds(of: partition).entries(from: from, to: target)
        if !entries.isEmpty {
            var value = ByteWriter(capacity: entries.count * 24)
            for entry in entries {
                value.append(entry.hash.low)
                value.append(entry.hash.high)
                value.append(entry.time)
            }
            unsafe rows.put(
                Self.seenPrefix(partition) + withUnsafeBytes(of: position.seq.bigEndian) { unsafe Array($0) },
                unsafe Array(value.bytes))
        }
        seenUpTo[partition] = target
        try expire(partition, before: assembler.seenIds(of: partition).oldestKept, into: rows)
    }

    /// Deletes rows of ids that are all older than the window.
    private func expire(_ partition: Int, before: Int64, into rows: borrowing StoreBatch) throws {
        let iterator = StoreIterator(view.store)
        let prefix = Self.seenPrefix(partition)
        iterator.seek(prefix)
        while iterator.isValid, unsafe iterator.key.starts(with: prefix) {
            let value = unsafe iterator.value
            guard value.count >= 8,
                unsafe Int64(littleEndian: value.loadUnaligned(fromByteOffset: value.count - 8, as: Int64.self))
                    < before
            else { break }
            unsafe rows.delete(iterator.key)
            iterator.next()
        }
        try iterator.check()
    }

    private static func seenPrefix(_ partition: Int) -> [UInt8] {
        unsafe [View.Prefix.seen] + withUnsafeBytes(of: UInt32(partition).bigEndian) { unsafe Array($0) }
    }
}
