internal import CWindows
internal import Glibc
import Changes

/// The records of one kind of entity: open addressing over records in slabs that never move.
///
/// A record's address is stable until `evict` gives it to another entity. Not thread-safe.
@safe final class EntityTable {
    typealias Record = UnsafeMutableRawPointer

    let layout: EntityLayout
    private(set) var count = 0
    /// Records ever handed out; those given back wait in `free`.
    private var used = 0
    private var slots: UnsafeMutablePointer<UInt64>
    private var mask: Int
    private var slabs: [UnsafeMutableRawPointer] = unsafe []
    private var free: [UInt32] = []
    private static let slabRecords = 256

    init(_ layout: EntityLayout) {
        self.layout = layout
        mask = 1023
        unsafe slots = .allocate(capacity: 1024)
        unsafe slots.initialize(repeating: 0, count: 1024)
    }

    deinit {
        unsafe slots.deallocate()
        unsafe slabs.forEach { unsafe tl_slab_free($0, slabBytes) }
    }

    private var slabBytes: Int { Self.slabRecords * layout.recordBytes }

    var bytes: Int { unsafe slabs.count * slabBytes + (mask + 1) * 8 }

    /// Asks for the place of a hash, ahead of `probable`. A hint.
    func prefetch(_ hash: UInt64) { unsafe Changes.prefetch(slots + (Int(truncatingIfNeeded: hash) & mask)) }

    /// The record that a hash most likely means, without a look at the record itself; for hints alone.
    func probable(_ hash: UInt64) -> Record? {
        var at = Int(truncatingIfNeeded: hash) & mask
        while unsafe slots[at] != 0 {
            if unsafe slots[at] >> 32 == hash >> 32 {
                return unsafe record(UInt32(truncatingIfNeeded: slots[at]) - 1)
            }
            at = (at + 1) & mask
        }
        return nil
    }

    func find(_ hash: UInt64, _ key: UnsafeRawBufferPointer) -> Record? {
        var at = Int(truncatingIfNeeded: hash) & mask
        while unsafe slots[at] != 0 {
            if unsafe slots[at] >> 32 == hash >> 32 {
                let record = unsafe record(UInt32(truncatingIfNeeded: slots[at]) - 1)
                if unsafe RecordHead.hash(record) == hash, unsafe RecordHead.hasKey(record, key) {
                    return unsafe record
                }
            }
            at = (at + 1) & mask
        }
        return nil
    }

    /// A new record for a key that `find` did not find.
    func insert(_ hash: UInt64, _ key: UnsafeRawBufferPointer) -> Record {
        precondition(key.count <= EntityLayout.keyBytesMax)
        if (count + 1) * 2 > mask { rehash((mask + 1) * 2) }
        let index: UInt32
        if let reused = free.popLast() {
            index = reused
            unsafe record(index).initializeMemory(as: UInt8.self, repeating: 0, count: layout.recordBytes)
        } else {
            if unsafe slabs.count * Self.slabRecords == used {
                guard let slab = unsafe tl_slab_allocate(slabBytes) else {
                    preconditionFailure(
                        "no memory for \(slabBytes >> 20) MiB of window tiles; lower limits.entities_in_memory")
                }
                unsafe slabs.append(slab)
            }
            index = UInt32(used)
            used += 1
        }
        let record = unsafe record(index)
        unsafe RecordHead.initialize(record, hash: hash, index: index, key: key)
        place(hash, index)
        count += 1
        return unsafe record
    }

    /// Visits every record.
    func forEach(_ visit: (Record) -> Void) {
        for at in 0...mask where unsafe slots[at] != 0 {
            unsafe visit(record(UInt32(truncatingIfNeeded: slots[at]) - 1))
        }
    }

    /// Gives up the records that `condemned` names, and rebuilds the addressing.
    func evict(_ condemned: (Record) -> Bool) -> Int {
        var gone: [UInt32] = []
        unsafe forEach { if unsafe condemned($0) { unsafe gone.append(RecordHead.index($0)) } }
        guard !gone.isEmpty else { return 0 }
        let dead = Set(gone)
        let kept = (0...mask).filter { unsafe slots[$0] != 0 }.map { unsafe UInt32(truncatingIfNeeded: slots[$0]) - 1 }
        unsafe slots.update(repeating: 0, count: mask + 1)
        for index in kept where !dead.contains(index) { unsafe place(RecordHead.hash(record(index)), index) }
        free.append(contentsOf: gone)
        count -= gone.count
        return gone.count
    }

    /// Gives up one record, and moves later ones of its run up, so that each is still found.
    func remove(_ record: Record) {
        let index = unsafe RecordHead.index(record)
        var hole = Int(truncatingIfNeeded: unsafe RecordHead.hash(record)) & mask
        while UInt32(truncatingIfNeeded: unsafe slots[hole]) != index + 1 {
            precondition(unsafe slots[hole] != 0, "a record is in its table")
            hole = (hole + 1) & mask
        }
        var next = (hole + 1) & mask
        while unsafe slots[next] != 0 {
            let other = unsafe self.record(UInt32(truncatingIfNeeded: slots[next]) - 1)
            let home = Int(truncatingIfNeeded: unsafe RecordHead.hash(other)) & mask
            if (next - home) & mask >= (next - hole) & mask {
                unsafe slots[hole] = unsafe slots[next]
                hole = next
            }
            next = (next + 1) & mask
        }
        unsafe slots[hole] = 0
        free.append(index)
        count -= 1
    }

    func record(_ index: UInt32) -> Record {
        unsafe slabs[Int(index) / Self.slabRecords] + Int(index) % Self.slabRecords * layout.recordBytes
    }

    private func place(_ hash: UInt64, _ index: UInt32) {
        var at = Int(truncatingIfNeeded: hash) & mask
        while unsafe slots[at] != 0 { at = (at + 1) & mask }
        unsafe slots[at] = (hash & 0xFFFF_FFFF_0000_0000) | UInt64(index + 1)
    }

    private func rehash(_ capacity: Int) {
        let old = unsafe slots
        let oldMask = mask
        unsafe slots = .allocate(capacity: capacity)
        unsafe slots.initialize(repeating: 0, count: capacity)
        mask = capacity - 1
        for at in 0...oldMask where unsafe old[at] != 0 {
            let index = unsafe UInt32(truncatingIfNeeded: old[at]) - 1
            unsafe place(RecordHead.hash(record(index)), index)
        }
        unsafe old.deallocate()
    }
}

/// The head of an entity's record; `EntityLayout` gives its layout.
enum RecordHead {
    typealias Record = UnsafeMutableRawPointer

    static func initialize(_ record: Record, hash: UInt64, index: UInt32, key: UnsafeRawBufferPointer) {
        unsafe record.storeBytes(of: hash, as: UInt64.self)
        unsafe record.storeBytes(of: index, toByteOffset: 36, as: UInt32.self)
        unsafe record.storeBytes(of: UInt16(key.count), toByteOffset: 40, as: UInt16.self)
        if let base = key.baseAddress { unsafe (record + 42).copyMemory(from: base, byteCount: key.count) }
    }

    static func hash(_ record: Record) -> UInt64 { unsafe record.load(as: UInt64.self) }

    static func index(_ record: Record) -> UInt32 { unsafe record.load(fromByteOffset: 36, as: UInt32.self) }

    static func key(_ record: Record) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: record + 42, count: Int(record.load(fromByteOffset: 40, as: UInt16.self)))
    }

    static func hasKey(_ record: Record, _ key: UnsafeRawBufferPointer) -> Bool {
        let own = unsafe self.key(record)
        guard own.count == key.count, let base = own.baseAddress, let other = key.baseAddress else { return false }
        return unsafe memcmp(base, other, own.count) == 0
    }

    static func last(_ record: Record) -> Int64 { unsafe record.load(fromByteOffset: 8, as: Int64.self) }

    static func setLast(_ record: Record, _ time: Int64) {
        unsafe record.storeBytes(of: time, toByteOffset: 8, as: Int64.self)
    }

    static func rings(_ record: Record) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(start: record + EntityLayout.ringsOffset, count: MemoryLayout<tl_rings_t>.size)
    }

    static func setRings(_ record: Record, _ saved: UnsafeRawPointer) {
        unsafe (record + EntityLayout.ringsOffset).copyMemory(
            from: saved, byteCount: MemoryLayout<tl_rings_t>.size)
    }

    /// Says whether the slot was already dirty in this batch, and makes it so.
    static func testAndSetDirty(_ record: Record, bit: Int) -> Bool {
        let offset = 16 + (bit >> 6) * 8
        let word = unsafe record.load(fromByteOffset: offset, as: UInt64.self)
        let one: UInt64 = 1 << UInt64(bit & 63)
        if word & one != 0 { return true }
        unsafe record.storeBytes(of: word | one, toByteOffset: offset, as: UInt64.self)
        return false
    }

    static func dirty(_ record: Record, _ word: Int) -> UInt64 {
        unsafe record.load(fromByteOffset: 16 + word * 8, as: UInt64.self)
    }

    static func clearDirty(_ record: Record) {
        unsafe record.storeBytes(of: 0, toByteOffset: 16, as: UInt64.self)
        unsafe record.storeBytes(of: 0, toByteOffset: 24, as: UInt64.self)
    }

    struct Flags: OptionSet {
        let rawValue: UInt32
        /// Touched by a batch whose outcome is open: one flag for each of the two that there may be.
        static let inBatch = [Flags(rawValue: 1), Flags(rawValue: 4)]
        static let uncommitted = Flags(rawValue: 5)
        /// Changed since it was last written to disk.
        static let unsaved = Flags(rawValue: 2)
    }

    static func flags(_ record: Record) -> Flags {
        unsafe Flags(rawValue: record.load(fromByteOffset: 32, as: UInt32.self))
    }

    static func setFlags(_ record: Record, _ flags: Flags) {
        unsafe record.storeBytes(of: flags.rawValue, toByteOffset: 32, as: UInt32.self)
    }
}
