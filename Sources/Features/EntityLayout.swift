internal import CWindows
import Changes

/// The memory of one entity's record: a head of ours, then the kernel's tiles.
///
/// Head, 192 bytes: hash (u64), last event time (i64 µs, 0 for none), dirty slots of the open batch (2 × u64), flags
/// (u32), index (u32), key length (u16), key (up to 104 bytes), at 152 the rings.
@safe final class EntityLayout {
    static let headBytes = 192
    static let keyBytesMax = 104
    static let ringsOffset = 152

    let entity: Pipeline.Entity
    let kind: UInt8
    let c: UnsafeMutablePointer<tl_layout_t>
    /// One a `TileLevel`.
    let levels: UnsafeMutablePointer<tl_level_t>
    /// The columns of the event that the entity's measures and distinct counts take.
    let measureColumns: UnsafeMutablePointer<Int>
    let distinctColumns: UnsafeMutablePointer<Int>
    let shared: Bool
    /// The entity's windows, in the pipeline's order.
    let spans: UnsafeMutablePointer<tl_span_t>
    let spanCount: Int

    init(_ pipeline: Pipeline, kind: Int, partitions: Int) {
        let entity = pipeline.entities[kind]
        self.entity = entity
        self.kind = UInt8(kind)
        unsafe c = .allocate(capacity: 1)
        unsafe c.initialize(to: tl_layout_t())
        unsafe levels = (UnsafeMutableRawPointer(c) + MemoryLayout<tl_layout_t>.offset(of: \.levels)!)
            .assumingMemoryBound(to: tl_level_t.self)
        shared = entity.shared
        unsafe measureColumns = .allocate(capacity: max(1, entity.measures.count))
        unsafe measureColumns.initialize(from: entity.measures, count: entity.measures.count)
        unsafe distinctColumns = .allocate(capacity: max(1, entity.distincts.count))
        unsafe distinctColumns.initialize(from: entity.distincts, count: entity.distincts.count)
        spanCount = entity.windows.count
        unsafe spans = .allocate(capacity: max(1, spanCount))
        for (index, window) in entity.windows.enumerated() {
            unsafe (spans + index).initialize(
                to: tl_span_t(
                    level: UInt32(window.level), tiles: UInt32(window.tiles), sketches: window.sketches ? 1 : 0))
        }
        unsafe c.pointee.measures = UInt32(entity.measures.count)
        unsafe c.pointee.distincts = UInt32(entity.distincts.count)
        unsafe c.pointee.partitions = entity.shared ? UInt32(partitions) : 0
        unsafe c.pointee.rings_offset = UInt32(Self.ringsOffset)
        for level in TileLevel.all {
            let used = entity.windows.filter { $0.level == level.index }
            let shape = unsafe levels + level.index
            unsafe shape.pointee.slots = used.isEmpty ? 0 : UInt32(level.slots)
            unsafe shape.pointee.width = level.width
            unsafe shape.pointee.sketches = used.contains(where: \.sketches) ? 1 : 0
            for measure in entity.measures.indices {
                let columns = Self.columns(pipeline, entity: kind, level: level.index, measure: measure)
                unsafe withUnsafeMutableBytes(of: &shape.pointee.columns) { unsafe $0[measure] = columns }
            }
        }
        unsafe tl_layout_finish(c, UInt32(Self.headBytes))
    }

    deinit {
        unsafe c.deallocate()
        unsafe spans.deallocate()
        unsafe measureColumns.deallocate()
        unsafe distinctColumns.deallocate()
    }

    /// Which columns of a measure the features of a level read. Every event has a required one: its count is the tile's.
    private static func columns(_ pipeline: Pipeline, entity: Int, level: Int, measure: Int) -> UInt8 {
        let windows = pipeline.entities[entity].windows
        var columns = 0
        for feature in pipeline.features {
            switch feature {
            case .window(entity, let window, measure, let statistic) where windows[window].level == level:
                switch statistic {
                case .count: break
                case .sum: columns |= Int(TL_SUM)
                case .mean: columns |= Int(TL_COUNT) | Int(TL_SUM)
                case .max: columns |= Int(TL_COUNT) | Int(TL_MAX)
                case .min: columns |= Int(TL_COUNT) | Int(TL_MIN)
                case .stddev: columns |= Int(TL_COUNT) | Int(TL_SUM) | Int(TL_SQUARE) | Int(TL_MAX) | Int(TL_MIN)
                }
            case .ratio(entity, let window, measure, _) where windows[window].level == level:
                columns |= Int(TL_COUNT) | Int(TL_SUM)
            default: break
            }
        }
        if pipeline.columns[pipeline.entities[entity].measures[measure]].required { columns &= ~Int(TL_COUNT) }
        return UInt8(columns)
    }

    var recordBytes: Int { unsafe Int(c.pointee.record_bytes) }

    /// Tiles of a level's ring; 0 where no window needs the level.
    func slots(_ level: Int) -> UInt32 { unsafe levels[level].slots }

    /// Bytes of one tile in its row form.
    func tileBytes(_ level: Int) -> Int { unsafe Int(levels[level].tile_bytes) }
}
