internal import CWindows
import Changes

/// A batch's life: what it touches is journalled, staged for the log, then committed or taken back.
extension FeatureState {
    /// Writes the tiles that the batch changed: shared ones first. The batch's own partition wrote them all.
    package func stage(partition: Int, into writer: inout ChangeBatchWriter) {
        for sharedPass in [true, false] {
            for (place, item) in touched.enumerated() where (Int(item.table) >= partitions) == sharedPass {
                if place + 4 < touched.count { unsafe Changes.prefetch(touched[place + 4].record) }
                if place + 2 < touched.count { prefetchTiles(touched[place + 2], partition) }
                let layout = table(item.table).layout
                staged.writer.removeAll()
                unsafe encodeDirty(item.record, layout, partition: partition, to: &staged.writer)
                unsafe writer.append(
                    .upsert, sharedPass ? .sharedTile : .tile, key: RecordHead.key(item.record),
                    value: staged.writer.bytes)
            }
        }
    }

    private func prefetchTiles(_ item: Touched, _ partition: Int) {
        unsafe tl_prefetch(item.record, table(item.table).layout.c, RecordHead.last(item.record), UInt32(partition))
    }

    func encodeDirty(
        _ record: UnsafeMutableRawPointer, _ layout: EntityLayout, partition: Int, to writer: inout ByteWriter
    ) {
        unsafe writer.append(layout.entity.shared ? partialLast(record, layout, partition) : RecordHead.last(record))
        for level in TileLevel.all where layout.slots(level.index) > 0 {
            var bits = unsafe RecordHead.dirty(record, level.firstBit >> 6) >> UInt64(level.firstBit & 63)
            if level.slots < 64 { bits &= (1 << UInt64(level.slots)) - 1 }
            while bits != 0 {
                let slot = UInt32(bits.trailingZeroBitCount)
                bits &= bits - 1
                writer.append(UInt8(level.index))
                let target = unsafe writer.extend(by: layout.tileBytes(level.index))
                unsafe copyTile(record, layout, level: level.index, slot: slot, partition: partition, to: target)
                // The batch itself moved the ring past this tile.
                if unsafe target.loadUnaligned(as: UInt32.self) == 0 {
                    writer.truncate(to: writer.count - 1 - layout.tileBytes(level.index))
                }
            }
        }
    }

    /// The log has the batch: what it changed stands.
    package func commit() {
        for item in touched {
            unsafe RecordHead.clearDirty(item.record)
            markUnsaved(item, dropping: .inBatch)
        }
        touched.removeAll(keepingCapacity: true)
        journal.removeAll(keepingCapacity: true)
        journalBytes.removeAll()
    }

    func markUnsaved(_ item: Touched, dropping: RecordHead.Flags = []) {
        var flags = unsafe RecordHead.flags(item.record).subtracting(dropping)
        if !flags.contains(.unsaved) {
            flags.insert(.unsaved)
            unsaved.append(item)
        }
        unsafe RecordHead.setFlags(item.record, flags)
    }

    /// The log does not have the batch: every tile is as it was before.
    package func rollback() {
        // The rings first: a merge asks them which tiles are there.
        for item in touched { unsafe RecordHead.restoreRings(item.record) }
        for entry in journal.reversed() {
            let layout = table(entry.table).layout
            let saved = unsafe UnsafeRawPointer(journalBytes.base + entry.offset)
            if entry.level == 255 {
                unsafe (entry.record + Int(layout.c.pointee.last_offset)).copyMemory(
                    from: saved, byteCount: partitions * 8)
                continue
            }
            let level = Int(entry.level)
            if layout.entity.shared {
                let row = unsafe tl_partial(entry.record, layout.c, Int32(level), entry.slot, UInt32(entry.partition))!
                unsafe row.copyMemory(from: saved, byteCount: layout.tileBytes(level))
                unsafe tl_partials_merge(entry.record, layout.c, Int32(level), entry.slot)
            } else {
                unsafe tl_slot_restore(entry.record, layout.c, Int32(level), entry.slot, saved)
            }
        }
        for item in touched {
            unsafe RecordHead.clearDirty(item.record)
            unsafe RecordHead.setLast(item.record, RecordHead.savedLast(item.record))
            unsafe RecordHead.setFlags(item.record, RecordHead.flags(item.record).subtracting(.inBatch))
        }
        touched.removeAll(keepingCapacity: true)
        journal.removeAll(keepingCapacity: true)
        journalBytes.removeAll()
    }

    /// Keeps a slot's tile as it was before the batch, once.
    func save(
        _ record: UnsafeMutableRawPointer, _ number: UInt16, level: TileLevel, slot: UInt32, partition: Int
    ) {
        guard unsafe !RecordHead.testAndSetDirty(record, bit: level.firstBit + Int(slot)) else { return }
        let layout = table(number).layout
        let bytes = layout.tileBytes(level.index)
        let offset = journalBytes.count
        let target = unsafe journalBytes.extend(by: bytes)
        unsafe copyTile(record, layout, level: level.index, slot: slot, partition: partition, to: target)
        unsafe journal.append(
            JournalEntry(
                table: number, level: UInt8(level.index), partition: UInt16(partition), slot: slot, record: record,
                offset: offset))
    }

    /// All partials' last event times, as level 255 of the journal.
    func journalLast(_ record: UnsafeMutableRawPointer, _ number: UInt16, _ layout: EntityLayout) {
        let offset = journalBytes.count
        unsafe journalBytes.append(
            UnsafeRawBufferPointer(start: record + Int(layout.c.pointee.last_offset), count: partitions * 8))
        unsafe journal.append(
            JournalEntry(table: number, level: 255, partition: 0, slot: 0, record: record, offset: offset))
    }

    func copyTile(
        _ record: UnsafeMutableRawPointer, _ layout: EntityLayout, level: Int, slot: UInt32, partition: Int,
        to target: UnsafeMutableRawPointer
    ) {
        if layout.entity.shared {
            let row = unsafe tl_partial(record, layout.c, Int32(level), slot, UInt32(partition))!
            unsafe target.copyMemory(from: row, byteCount: layout.tileBytes(level))
        } else {
            unsafe tl_tile_store(record, layout.c, Int32(level), slot, target)
        }
    }
}
