internal import CWindows
import Changes

/// The window tiles of every entity, and the one implementation of features over them: the core, the edges and the
/// offline export all run this code.
///
/// Order of use in the core, for each batch: `observe` each event, `stage` the tiles that changed, then `commit` once
/// the log has the batch, or `rollback`. A core that works on while the log writes calls `advance` after `stage`: the
/// next batch is then observed on top of the one under way. A replica calls `apply` instead. Not thread-safe: its owner
/// serialises.
@safe package final class FeatureState {
    package let pipeline: Pipeline
    package let partitions: Int
    let layouts: [EntityLayout]
    /// Tables of the primary entity, one a partition.
    let primary: [EntityTable]
    /// Tables of the shared entities, in the pipeline's order.
    let shared: [EntityTable]
    private(set) var open = BatchJournal(flag: RecordHead.Flags.inBatch[0])
    private(set) var underWay: BatchJournal?
    private var spare: BatchJournal? = BatchJournal(flag: RecordHead.Flags.inBatch[1])
    private var recordsInsertions = false
    private var inserted: [Touched] = []
    let staged = ByteWriterBox()
    let storeKey = ByteWriterBox()
    var unsaved: [Touched] = []
    var sweep: [Touched] = []
    /// Of the sweep, what a batch under way has touched: its turn comes when that is committed.
    var deferred: [Touched] = []
    private let values: UnsafeMutablePointer<Double>
    private let hashes: UnsafeMutablePointer<UInt64>
    private let windows: UnsafeMutablePointer<tl_window_t>
    private let keyBuffer: UnsafeMutableRawPointer
    private let announced: UnsafeMutablePointer<UInt64>
    private var windowBase: [Int] = []
    private var before: [Int64]
    private var present: [Bool]
    /// Reads an entity that is not in memory from the disk: its encoded tiles, by key.
    package var load: ((_ storageKey: UnsafeRawBufferPointer, _ use: (UnsafeRawBufferPointer) -> Void) -> Void)?

    typealias Touched = BatchJournal.Touched

    package init(_ pipeline: Pipeline, partitions: Int) {
        self.pipeline = pipeline
        self.partitions = partitions
        layouts = pipeline.entities.indices.map { EntityLayout(pipeline, kind: $0, partitions: partitions) }
        let first = layouts[0]
        primary = (0..<partitions).map { _ in EntityTable(first) }
        shared = layouts.dropFirst().map { EntityTable($0) }
        unsafe values = .allocate(capacity: Int(TL_MEASURES_MAX))
        unsafe hashes = .allocate(capacity: Int(TL_DISTINCTS_MAX))
        let total = pipeline.entities.reduce(0) { $0 + $1.windows.count }
        unsafe windows = .allocate(capacity: max(1, total))
        unsafe windows.initialize(repeating: tl_window_t(), count: max(1, total))
        unsafe keyBuffer = .allocate(byteCount: 256, alignment: 8)
        unsafe announced = .allocate(capacity: Self.lookahead * pipeline.entities.count)
        unsafe announced.initialize(repeating: 0, count: Self.lookahead * pipeline.entities.count)
        before = Array(repeating: 0, count: pipeline.entities.count)
        present = Array(repeating: false, count: pipeline.entities.count)
        var base = 0
        for entity in pipeline.entities {
            windowBase.append(base)
            base += entity.windows.count
        }
    }

    deinit {
        unsafe values.deallocate()
        unsafe hashes.deallocate()
        unsafe windows.deallocate()
        unsafe keyBuffer.deallocate()
        unsafe announced.deallocate()
    }

    package var featureCount: Int { pipeline.features.count }

    /// Entities in memory.
    package var entityCount: Int { primary.reduce(0) { $0 + $1.count } + shared.reduce(0) { $0 + $1.count } }

    /// Bytes of the tables.
    package var memoryBytes: Int { primary.reduce(0) { $0 + $1.bytes } + shared.reduce(0) { $0 + $1.bytes } }

    /// Bytes that one entity of each kind takes in memory.
    package var recordBytes: [Int] { layouts.map(\.recordBytes) }

    func table(_ number: UInt16) -> EntityTable {
        Int(number) < partitions ? primary[Int(number)] : shared[Int(number) - partitions]
    }

    func tableNumber(entity: Int, partition: Int) -> UInt16 {
        UInt16(entity == 0 ? partition : partitions + entity - 1)
    }

    /// Adds the decoder's event to the tiles of its entities and writes its features: `featureCount` Float32s.
    ///
    /// Windows of length L at the event's time t cover (t − L, t], the event itself once; the old end snaps outward to
    /// a tile's edge. Returns whether the event was too late for a tile of at least one of its windows.
    package func observe(
        _ decoder: EventDecoder, tenant: Int, partition: Int, time: Int64, row: UnsafeMutablePointer<Float>
    ) -> Bool {
        var late = false
        for entity in pipeline.entities.indices {
            let id = unsafe decoder.text(pipeline.entities[entity].column)
            present[entity] = id.count > 0
            guard present[entity] else { continue }
            late = unsafe add(decoder, entity: entity, tenant: tenant, id: id, partition: partition, time: time) || late
        }
        unsafe compute(decoder, time: time, row: row)
        return late
    }

    /// Events whose records may be asked for ahead of their turn.
    package static let lookahead = 4

    /// First step ahead of `observe`: hashes the event's entities and asks for their places in the tables. A hint.
    package func announce(_ decoder: EventDecoder, place: Int, tenant: Int, partition: Int) {
        for entity in pipeline.entities.indices {
            let id = unsafe decoder.text(pipeline.entities[entity].column)
            let hash = unsafe stableHash(key(tenant: tenant, kind: layouts[entity].kind, id: id))
            unsafe announced[place * pipeline.entities.count + entity] = hash
            table(tableNumber(entity: entity, partition: partition)).prefetch(hash)
        }
    }

    /// Second step ahead of `observe`: asks for the records' lines. A hint.
    package func prefetch(place: Int, partition: Int, time: Int64) {
        for entity in pipeline.entities.indices {
            let table = table(tableNumber(entity: entity, partition: partition))
            guard let record = unsafe table.probable(announced[place * pipeline.entities.count + entity]) else {
                continue
            }
            unsafe tl_prefetch(record, table.layout.c, time, UInt32(partition))
        }
    }

    /// The features that an event would get, without a trace: the same code, then a rollback.
    package func preview(
        _ decoder: EventDecoder, tenant: Int, partition: Int, time: Int64, row: UnsafeMutablePointer<Float>
    ) {
        precondition(isSettled, "a preview is never taken in the middle of a batch")
        recordsInsertions = true
        _ = unsafe observe(decoder, tenant: tenant, partition: partition, time: time, row: row)
        rollback()
        recordsInsertions = false
        // What a question asked about is not kept: otherwise asking would fill the memory.
        for item in inserted { unsafe table(item.table).remove(item.record) }
        inserted.removeAll(keepingCapacity: true)
    }

    func add(
        _ decoder: EventDecoder, entity: Int, tenant: Int, id: UnsafeRawBufferPointer, partition: Int, time: Int64
    ) -> Bool {
        let layout = layouts[entity]
        let number = tableNumber(entity: entity, partition: partition)
        let record = unsafe record(in: number, key: key(tenant: tenant, kind: layout.kind, id: id))
        for index in 0..<Int(unsafe layout.c.pointee.measures) {
            unsafe values[index] = decoder.number(layout.measureColumns[index])
        }
        for index in 0..<Int(unsafe layout.c.pointee.distincts) {
            let text = unsafe decoder.text(layout.distinctColumns[index])
            unsafe hashes[index] = unsafe text.count == 0 ? 0 : max(1, stableHash(text, seed: 0x6469_7374))
        }
        unsafe touch(record, number, layout)
        before[entity] = unsafe RecordHead.last(record)
        for level in 0..<Int(TL_LEVELS) {
            let slots = unsafe layout.levels[level].slots
            guard slots > 0 else { continue }
            let slot = unsafe UInt32(truncatingIfNeeded: time / layout.levels[level].width) & (slots - 1)
            unsafe save(record, number, layout, level: level, slot: slot, partition: partition)
        }
        let late = unsafe tl_add(record, layout.c, time, UInt32(partition), values, hashes) != 0
        unsafe readWindows(record, layout, entity: entity, time: time)
        if layout.shared {
            let last = unsafe partialLast(record, layout, partition)
            if time > last { unsafe setPartialLast(record, layout, partition, time) }
        } else if unsafe time > RecordHead.last(record) {
            unsafe RecordHead.setLast(record, time)
        }
        return late
    }

    /// Aggregates an entity's windows as of a time.
    func readWindows(_ record: UnsafeMutableRawPointer, _ layout: EntityLayout, entity: Int, time: Int64) {
        unsafe tl_windows_read(
            record, layout.c, time, layout.spans, UInt32(layout.spanCount), windows + windowBase[entity])
    }

    func compute(_ decoder: EventDecoder, time: Int64, row: UnsafeMutablePointer<Float>) {
        for (index, feature) in pipeline.features.enumerated() {
            switch feature {
            case .value(let column): unsafe row[index] = Float(decoder.number(column))
            case .log(let column):
                unsafe row[index] = FeatureMath.logOnePlus(decoder.number(column))
            case .clock(let clock): unsafe row[index] = FeatureMath.clock(clock, time)
            case .sinceLast(let entity):
                unsafe row[index] =
                    present[entity] && before[entity] > 0
                    ? Float(Double(max(0, time - before[entity])) / 1_000_000) : .nan
            case .window(let entity, let window, let measure, let statistic):
                unsafe row[index] =
                    unsafe present[entity]
                    ? FeatureMath.statistic(statistic, windows + windowBase[entity] + window, measure: measure) : .nan
            case .distinct(let entity, let window, let distinct):
                unsafe row[index] =
                    unsafe present[entity]
                    ? FeatureMath.distinct(windows + windowBase[entity] + window, distinct: distinct) : .nan
            case .ratio(let entity, let window, let measure, let column):
                let mean =
                    unsafe present[entity]
                    ? FeatureMath.mean(windows + windowBase[entity] + window, measure: measure) : Double.nan
                unsafe row[index] = Float(decoder.number(column) / mean)
            }
        }
    }

    /// Tenant, kind and id in the state's key buffer: the key of a tile change.
    func key(tenant: Int, kind: UInt8, id: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        var name = pipeline.tenants[tenant]
        let length = name.withUTF8 { utf8 in
            unsafe keyBuffer.storeBytes(of: UInt8(utf8.count), as: UInt8.self)
            if let base = utf8.baseAddress { unsafe (keyBuffer + 1).copyMemory(from: base, byteCount: utf8.count) }
            return utf8.count
        }
        unsafe keyBuffer.storeBytes(of: kind, toByteOffset: 1 + length, as: UInt8.self)
        if let base = id.baseAddress { unsafe (keyBuffer + 2 + length).copyMemory(from: base, byteCount: id.count) }
        return unsafe UnsafeRawBufferPointer(start: keyBuffer, count: 2 + length + id.count)
    }

    func record(in number: UInt16, key: UnsafeRawBufferPointer) -> UnsafeMutableRawPointer {
        let table = table(number)
        let hash = unsafe stableHash(key)
        if let found = unsafe table.find(hash, key) { return unsafe found }
        let fresh = unsafe table.insert(hash, key)
        unsafe loadStored(number, key, into: fresh, table.layout)
        if recordsInsertions { unsafe inserted.append(Touched(table: number, record: fresh)) }
        return unsafe fresh
    }

    /// A record in memory or in the store, without making one that is in neither.
    func findStored(_ number: UInt16, _ key: UnsafeRawBufferPointer) -> UnsafeMutableRawPointer? {
        let table = table(number)
        if let found = unsafe table.find(stableHash(key), key) { return unsafe found }
        guard unsafe isStored(number, key) else { return nil }
        return unsafe record(in: number, key: key)
    }

    /// The windows' aggregates of an entity, as the last read left them.
    func windows(of entity: Int) -> UnsafeMutablePointer<tl_window_t> { unsafe windows + windowBase[entity] }

    func touch(_ record: UnsafeMutableRawPointer, _ number: UInt16, _ layout: EntityLayout) {
        let flags = unsafe RecordHead.flags(record)
        guard !flags.contains(open.flag) else { return }
        unsafe RecordHead.setFlags(record, flags.union(open.flag))
        unsafe open.touched.append(Touched(table: number, record: record))
        open.changeBytes += unsafe Change.headerBytes + RecordHead.key(record).count + MemoryLayout<Int64>.size
        unsafe saveHead(record, number, layout)
    }

    /// No batch's outcome is open.
    package var isSettled: Bool { open.touched.isEmpty && underWay == nil }

    /// The open batch is staged and on its way to the log; the next one begins.
    package func advance() {
        guard let next = spare else { preconditionFailure("one batch is under way at a time") }
        precondition(open.staged, "a batch is staged before it is under way")
        underWay = open
        open = next
        spare = nil
    }

    /// The older of the two batches, whose outcome the log has told, is done with.
    func finishOldest(_ journal: BatchJournal) {
        journal.removeAll()
        guard underWay === journal else { return }
        spare = journal
        underWay = nil
    }

    func partialLast(_ record: UnsafeMutableRawPointer, _ layout: EntityLayout, _ partition: Int) -> Int64 {
        unsafe record.load(fromByteOffset: Int(layout.c.pointee.last_offset) + partition * 8, as: Int64.self)
    }

    func setPartialLast(
        _ record: UnsafeMutableRawPointer, _ layout: EntityLayout, _ partition: Int, _ time: Int64
    ) {
        unsafe record.storeBytes(
            of: time, toByteOffset: Int(layout.c.pointee.last_offset) + partition * 8, as: Int64.self)
        var last: Int64 = 0
        for q in 0..<partitions { last = unsafe max(last, partialLast(record, layout, q)) }
        unsafe RecordHead.setLast(record, last)
    }
}
