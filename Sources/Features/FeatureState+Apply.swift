internal import CWindows
import Changes

/// A replica's side of the state: committed tiles come in, and reach the disk in sweeps.
extension FeatureState {
    /// Applies a tile change of a committed batch. Says whether the bytes made sense.
    package func apply(_ change: Change, partition: Int) -> Bool {
        guard change.kind == .tile || change.kind == .sharedTile, partition < partitions else { return false }
        let rest = unsafe change.tenantAndRest.rest
        guard let kind = unsafe rest.first, Int(kind) < layouts.count,
            unsafe change.key.count <= EntityLayout.keyBytesMax,
            (Int(kind) > 0) == (change.kind == .sharedTile), change.operation == .upsert
        else { return false }
        let number = tableNumber(entity: Int(kind), partition: partition)
        let record = unsafe record(in: number, key: change.key)
        unsafe markUnsaved(Touched(table: number, record: record))
        return unsafe decodePart(change.value, into: record, layouts[Int(kind)], partition: partition)
    }

    /// One partition's last event time and tiles: the value of a tile change.
    private func decodePart(
        _ value: UnsafeRawBufferPointer, into record: UnsafeMutableRawPointer, _ layout: EntityLayout, partition: Int
    ) -> Bool {
        var reader = unsafe ByteReader(value)
        guard let last = reader.read(Int64.self) else { return false }
        if layout.entity.shared {
            unsafe setPartialLast(record, layout, partition, last)
        } else {
            unsafe RecordHead.setLast(record, last)
        }
        while let level = reader.read(UInt8.self) {
            guard level < 3, layout.slots(Int(level)) > 0,
                let row = unsafe reader.read(count: layout.tileBytes(Int(level))),
                let bytes = row.baseAddress
            else { return false }
            let index = unsafe UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self))
            if layout.entity.shared {
                let slot = index & (layout.slots(Int(level)) - 1)
                guard let partial = unsafe tl_partial(record, layout.c, Int32(level), slot, UInt32(partition)) else {
                    return false
                }
                unsafe partial.copyMemory(from: bytes, byteCount: row.count)
                unsafe tl_partials_merge(record, layout.c, Int32(level), slot)
            } else {
                unsafe tl_tile_load(record, layout.c, Int32(level), bytes)
            }
        }
        return true
    }

    /// A whole record as a sweep wrote it: for each partition that has a part its number (u16), length (u32) and part.
    func decodeWhole(
        _ value: UnsafeRawBufferPointer, into record: UnsafeMutableRawPointer, _ layout: EntityLayout
    ) -> Bool {
        var reader = unsafe ByteReader(value)
        while let partition = reader.read(UInt16.self) {
            guard Int(partition) < max(1, layout.entity.shared ? partitions : 1), let length = reader.read(UInt32.self),
                let part = unsafe reader.read(count: Int(length)),
                unsafe decodePart(part, into: record, layout, partition: Int(partition))
            else { return false }
        }
        return true
    }

    /// The key of an entity in a store: table (u16, big-endian), then the key of its changes.
    private static func storageKey(_ number: UInt16, _ key: UnsafeRawBufferPointer, to writer: inout ByteWriter) {
        writer.removeAll()
        writer.append(number.bigEndian)
        unsafe writer.append(key)
    }

    /// Asks the store for an entity that is not in memory.
    func loadStored(
        _ number: UInt16, _ key: UnsafeRawBufferPointer, into record: UnsafeMutableRawPointer, _ layout: EntityLayout
    ) {
        guard let load = unsafe load else { return }
        unsafe Self.storageKey(number, key, to: &storeKey.writer)
        unsafe load(storeKey.writer.bytes) { value in _ = unsafe self.decodeWhole(value, into: record, layout) }
    }

    /// Whether the store has an entity that is not in memory.
    func isStored(_ number: UInt16, _ key: UnsafeRawBufferPointer) -> Bool {
        guard let load = unsafe load else { return false }
        var found = false
        unsafe Self.storageKey(number, key, to: &storeKey.writer)
        unsafe load(storeKey.writer.bytes) { _ in found = true }
        return found
    }

    /// Takes in an entity that the store held when the process started. Says whether the bytes made sense.
    package func restore(storageKey: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) -> Bool {
        guard storageKey.count > 3 else { return false }
        let number = unsafe UInt16(bigEndian: storageKey.loadUnaligned(as: UInt16.self))
        let key = unsafe UnsafeRawBufferPointer(rebasing: storageKey[2...])
        guard Int(number) < partitions + shared.count, key.count <= EntityLayout.keyBytesMax else { return false }
        let table = table(number)
        let hash = unsafe stableHash(key)
        return unsafe decodeWhole(value, into: table.find(hash, key) ?? table.insert(hash, key), table.layout)
    }

    /// Whether what is left of the sweep waits for the batch under way.
    package var sweepWaits: Bool { sweep.isEmpty && !deferred.isEmpty }

    /// Begins a sweep over all entities that changed since the last one. Their tiles may be written over several
    /// batches: each is absolute, so a replay from the frontier *at which the sweep began* ends in the same state.
    package func beginSweep() {
        precondition(sweepRemaining == 0 && open.touched.isEmpty, "a sweep begins between batches, after the last one")
        swap(&sweep, &unsaved)
        for item in sweep {
            unsafe RecordHead.setFlags(item.record, RecordHead.flags(item.record).subtracting(.unsaved))
        }
    }

    package var sweepRemaining: Int { sweep.count + deferred.count }

    /// Hands over at most `max` entities as store rows. Call between batches.
    ///
    /// Nothing uncommitted reaches the disk: what a batch under way has touched waits until nothing is under way.
    package func continueSweep(
        max: Int, _ put: (_ storageKey: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Void
    ) {
        precondition(open.touched.isEmpty, "a sweep goes on between batches")
        if isSettled {
            sweep.append(contentsOf: deferred)
            deferred.removeAll(keepingCapacity: true)
        }
        for _ in 0..<min(max, sweep.count) {
            let item = sweep.removeLast()
            guard unsafe RecordHead.flags(item.record).isDisjoint(with: .uncommitted) else {
                deferred.append(item)
                continue
            }
            let layout = table(item.table).layout
            staged.writer.removeAll()
            for partition in 0..<(layout.entity.shared ? partitions : 1) {
                unsafe encodePart(item.record, layout, partition: partition, to: &staged.writer)
            }
            unsafe Self.storageKey(item.table, RecordHead.key(item.record), to: &storeKey.writer)
            unsafe put(storeKey.writer.bytes, staged.writer.bytes)
        }
    }

    private func encodePart(
        _ record: UnsafeMutableRawPointer, _ layout: EntityLayout, partition: Int, to writer: inout ByteWriter
    ) {
        let last = unsafe layout.entity.shared ? partialLast(record, layout, partition) : RecordHead.last(record)
        guard last > 0 else { return }
        writer.append(UInt16(partition))
        let lengthAt = writer.count
        writer.append(UInt32(0))
        writer.append(last)
        for level in TileLevel.all where layout.slots(level.index) > 0 {
            let bytes = layout.tileBytes(level.index)
            for slot in 0..<UInt32(level.slots) {
                let mark = writer.count
                writer.append(UInt8(level.index))
                let target = unsafe writer.extend(by: bytes)
                unsafe copyTile(record, layout, level: level.index, slot: slot, partition: partition, to: target)
                if unsafe target.loadUnaligned(as: UInt32.self) == 0 { writer.truncate(to: mark) }
            }
        }
        writer.store(UInt32(writer.count - lengthAt - 4), at: lengthAt)
    }

    /// Lets go of saved entities, the longest silent first, until at most `target` are in memory. Returns how many
    /// went. Needs `load`, which brings them back.
    package func evict(to target: Int) -> Int {
        precondition(open.touched.isEmpty && sweepRemaining == 0)
        guard unsafe load != nil, entityCount > target else { return 0 }
        var times: [Int64] = []
        for table in primary + shared {
            unsafe table.forEach {
                if unsafe RecordHead.flags($0).isEmpty { unsafe times.append(RecordHead.last($0)) }
            }
        }
        times.sort()
        let excess = min(entityCount - target, times.count)
        guard excess > 0 else { return 0 }
        let limit = times[excess - 1]
        return (primary + shared).reduce(0) { total, table in
            unsafe total
                + table.evict { unsafe RecordHead.flags($0).isEmpty && RecordHead.last($0) <= limit }
        }
    }
}
