internal import CWindows
import Changes

/// A batch's life: what it touches is journalled, staged for the log, then committed or taken back.
extension FeatureState {
    /// Writes the tiles that the batch changed: shared ones first. The batch's own partition wrote them all.
    package func stage(partition: Int, into writer: inout ChangeBatchWriter) {
        let touched = open.touched
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
                unsafe RecordHead.clearDirty(item.record)
            }
        }
        open.staged = true
    }

    private func prefetchTiles(_ item: Touched, _ partition: Int) {
        unsafe tl_prefetch(item.record, table(item.table).layout.c, RecordHead.last(item.record), UInt32(partition))
    }

    /// What `stage` will write, in bytes of changes: a tile that the batch itself moves its ring past is counted, not written.
    package var stagedBytes: Int { open.changeBytes }

    func encodeDirty(
        _ record: UnsafeMutableRawPointer, _ layout: EntityLayout, partition: Int, to writer: inout ByteWriter
    ) {
        unsafe writer.append(layout.shared ? partialLast(record, layout, partition) : RecordHead.last(record))
        for level in 0..<Int(TL_LEVELS) where layout.slots(level) > 0 {
            let firstBit = TileLevel.firstBit(level)
            var bits = unsafe RecordHead.dirty(record, firstBit >> 6) >> UInt64(firstBit & 63)
            if layout.slots(level) < 64 { bits &= (1 << UInt64(layout.slots(level))) - 1 }
            while bits != 0 {
                let slot = UInt32(bits.trailingZeroBitCount)
                bits &= bits - 1
                writer.append(UInt8(level))
                let target = unsafe writer.extend(by: layout.tileBytes(level))
                unsafe copyTile(record, layout, level: level, slot: slot, partition: partition, to: target)
                // The batch itself moved the ring past this tile.
                if unsafe target.loadUnaligned(as: UInt32.self) == 0 {
                    writer.truncate(to: writer.count - 1 - layout.tileBytes(level))
                }
            }
        }
    }

    /// The log has the oldest batch: what it changed stands.
    package func commit() {
        let journal = underWay ?? open
        for item in journal.touched {
            if !journal.staged { unsafe RecordHead.clearDirty(item.record) }
            markUnsaved(item, dropping: journal.flag)
        }
        finishOldest(journal)
    }

    func markUnsaved(_ item: Touched, dropping: RecordHead.Flags = []) {
        var flags = unsafe RecordHead.flags(item.record).subtracting(dropping)
        if !flags.contains(.unsaved) {
            flags.insert(.unsaved)
            unsaved.append(item)
        }
        unsafe RecordHead.setFlags(item.record, flags)
    }

    /// The log does not have the oldest batch, nor what was observed on top of it: every tile is as it was before.
    package func rollback() {
        takeBack(open)
        open.removeAll()
        guard let underWay else { return }
        takeBack(underWay)
        finishOldest(underWay)
    }

    private func takeBack(_ journal: BatchJournal) {
        // The heads first: a merge asks their rings which tiles are there.
        for entry in journal.entries where entry.level == BatchJournal.Entry.head {
            unsafe restoreHead(entry.record, table(entry.table).layout, journal.bytes.base + entry.offset)
        }
        for entry in journal.entries.reversed() where entry.level != BatchJournal.Entry.head {
            let layout = table(entry.table).layout
            let saved = unsafe UnsafeRawPointer(journal.bytes.base + entry.offset)
            let level = Int(entry.level)
            if layout.shared {
                let row = unsafe tl_partial(entry.record, layout.c, Int32(level), entry.slot, UInt32(entry.partition))!
                unsafe row.copyMemory(from: saved, byteCount: layout.tileBytes(level))
                unsafe tl_partials_merge(entry.record, layout.c, Int32(level), entry.slot)
            } else {
                unsafe tl_slot_restore(entry.record, layout.c, Int32(level), entry.slot, saved)
            }
        }
        for item in journal.touched {
            unsafe RecordHead.clearDirty(item.record)
            unsafe RecordHead.setFlags(item.record, RecordHead.flags(item.record).subtracting(journal.flag))
        }
    }

    /// Keeps a slot's tile as it was before the batch, once.
    func save(
        _ record: UnsafeMutableRawPointer, _ number: UInt16, _ layout: EntityLayout, level: Int, slot: UInt32,
        partition: Int
    ) {
        guard unsafe !RecordHead.testAndSetDirty(record, bit: TileLevel.firstBit(level) + Int(slot)) else { return }
        let offset = open.bytes.count
        open.changeBytes += 1 + layout.tileBytes(level)
        let target = unsafe open.bytes.extend(by: layout.tileBytes(level))
        unsafe copyTile(record, layout, level: level, slot: slot, partition: partition, to: target)
        unsafe open.entries.append(
            BatchJournal.Entry(
                table: number, level: UInt8(level), partition: UInt16(partition), slot: slot, record: record,
                offset: offset))
    }

    /// Keeps a record's last event time, its rings and its partials' last event times as they were before the batch.
    func saveHead(_ record: UnsafeMutableRawPointer, _ number: UInt16, _ layout: EntityLayout) {
        let offset = open.bytes.count
        unsafe open.bytes.append(RecordHead.last(record))
        unsafe open.bytes.append(RecordHead.rings(record))
        if layout.shared {
            unsafe open.bytes.append(
                UnsafeRawBufferPointer(start: record + Int(layout.c.pointee.last_offset), count: partitions * 8))
        }
        unsafe open.entries.append(
            BatchJournal.Entry(
                table: number, level: BatchJournal.Entry.head, partition: 0, slot: 0, record: record, offset: offset))
    }

    private func restoreHead(
        _ record: UnsafeMutableRawPointer, _ layout: EntityLayout, _ saved: UnsafeMutableRawPointer
    ) {
        unsafe RecordHead.setLast(record, Int64(littleEndian: saved.loadUnaligned(as: Int64.self)))
        unsafe RecordHead.setRings(record, saved + 8)
        if layout.shared {
            unsafe (record + Int(layout.c.pointee.last_offset)).copyMemory(
                from: saved + 8 + MemoryLayout<tl_rings_t>.size, byteCount: partitions * 8)
        }
    }

    func copyTile(
        _ record: UnsafeMutableRawPointer, _ layout: EntityLayout, level: Int, slot: UInt32, partition: Int,
        to target: UnsafeMutableRawPointer
    ) {
        if layout.shared {
            let row = unsafe tl_partial(record, layout.c, Int32(level), slot, UInt32(partition))!
            unsafe target.copyMemory(from: row, byteCount: layout.tileBytes(level))
        } else {
            unsafe tl_tile_store(record, layout.c, Int32(level), slot, target)
        }
    }
}
