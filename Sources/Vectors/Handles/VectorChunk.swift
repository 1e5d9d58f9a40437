internal import CVectors
internal import Synchronization

/// A fixed number of rows, filled once from its first slot on; readers hold it as long as they scan it.
///
/// `@unchecked Sendable`: the tail's one writer fills slots that no reader sees yet, since a row is there only from the
/// change on that is published after it was written; `born`, `died` and `used` are atomics.
@safe final class VectorChunk: @unchecked Sendable {
    let capacity: Int
    let rows: tl_rows
    private let memory: UnsafeMutableRawPointer
    private let usedSlots = Atomic<UInt32>(0)

    // The writer's alone.
    var live = 0
    /// No slot before it is live.
    var firstLive = 0

    static func bytesPerRow(dimensions: Int) -> Int { 4 * dimensions + 5 * 8 + 4 * 4 }

    var bytes: Int { capacity * Self.bytesPerRow(dimensions: Int(unsafe rows.dimensions)) }
    var used: UInt32 { usedSlots.load(ordering: .acquiring) }
    var isFull: Bool { Int(used) == capacity }

    init(capacity: Int, dimensions: Int) {
        precondition(capacity > 0 && capacity % Int(TL_LANES) == 0, "rows come in groups")
        self.capacity = capacity
        let size = capacity * Self.bytesPerRow(dimensions: dimensions)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 64)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: size)
        unsafe self.memory = memory
        var rows = unsafe tl_rows()
        var offset = 0
        func take<T>(_ type: T.Type, _ count: Int) -> UnsafeMutablePointer<T> {
            defer { offset += count * MemoryLayout<T>.stride }
            return unsafe (memory + offset).bindMemory(to: T.self, capacity: count)
        }
        unsafe rows.vectors = take(Float.self, capacity * dimensions)
        unsafe rows.ids = take(UInt64.self, capacity)
        unsafe rows.times = take(Int64.self, capacity)
        unsafe rows.entities = take(UInt64.self, capacity)
        unsafe rows.born = take(UInt64.self, capacity)
        unsafe rows.died = take(UInt64.self, capacity)
        unsafe rows.scores = take(Float.self, capacity)
        unsafe rows.flags = take(UInt32.self, capacity)
        unsafe rows.tenants = take(UInt32.self, capacity)
        unsafe rows.labels = take(UInt32.self, capacity)
        unsafe rows.dimensions = UInt32(dimensions)
        unsafe self.rows = rows
    }

    deinit { unsafe memory.deallocate() }

    /// Writes the next slot and returns it.
    func append(_ row: VectorRow, _ vector: UnsafeBufferPointer<Float>, born: UInt64) -> Int {
        let slot = used
        precondition(Int(slot) < capacity, "the chunk is full")
        let fields = tl_hit(
            id: row.id, time: row.time, distance: 0, score: row.score, flags: row.flags, tenant: row.tenant,
            entity: row.entity, label: row.label)
        unsafe withUnsafePointer(to: rows) { rows in
            unsafe withUnsafePointer(to: fields) { fields in
                unsafe tl_vectors_put(rows, slot, vector.baseAddress, fields, born)
            }
        }
        usedSlots.store(slot + 1, ordering: .releasing)
        live += 1
        return Int(slot)
    }

    /// Copies a live row of another chunk into the next slot and returns it.
    func append(from other: VectorChunk, _ otherSlot: Int) -> Int {
        let slot = used
        precondition(Int(slot) < capacity, "the chunk is full")
        unsafe withUnsafePointer(to: other.rows) { source in
            unsafe withUnsafePointer(to: rows) { unsafe tl_vectors_move(source, UInt32(otherSlot), $0, slot) }
        }
        usedSlots.store(slot + 1, ordering: .releasing)
        live += 1
        return Int(slot)
    }

    func end(_ slot: Int, at sequence: UInt64) {
        unsafe withUnsafePointer(to: rows) { unsafe tl_vectors_end($0, UInt32(slot), sequence) }
        live -= 1
    }

    func isLive(_ slot: Int) -> Bool {
        unsafe slot < Int(used) && withUnsafePointer(to: rows) { unsafe tl_vectors_is_live($0, UInt32(slot)) }
    }

    /// Whether a reader of that change sees the row.
    func wasLive(_ slot: Int, at sequence: UInt64) -> Bool {
        unsafe withUnsafePointer(to: rows) { unsafe tl_vectors_was_live($0, UInt32(slot), sequence) }
    }

    func row(_ slot: Int) -> VectorRow {
        unsafe VectorRow(
            id: rows.ids[slot], time: rows.times[slot], score: rows.scores[slot], flags: rows.flags[slot],
            tenant: rows.tenants[slot], entity: rows.entities[slot], label: rows.labels[slot])
    }

    func copyVector(_ slot: Int, to vector: UnsafeMutablePointer<Float>) {
        unsafe withUnsafePointer(to: rows) { unsafe tl_vectors_get($0, UInt32(slot), vector) }
    }

    func id(_ slot: Int) -> UInt64 { unsafe rows.ids[slot] }

    func scan(
        _ query: UnsafePointer<Float>, _ metric: tl_metric, _ filter: UnsafePointer<tl_filter>,
        _ best: UnsafeMutablePointer<tl_best>
    ) {
        unsafe withUnsafePointer(to: rows) { unsafe tl_vectors_scan($0, used, query, metric, filter, best) }
    }
}
