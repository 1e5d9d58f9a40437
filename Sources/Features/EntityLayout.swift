internal import CWindows
import Changes

/// The memory of one entity's record: a head of ours, then the kernel's columns.
///
/// Head, 192 bytes: hash (u64), last event time (i64 µs, 0 for none), dirty slots of the batch (2 × u64), flags (u32),
/// index (u32), saved last event time (i64), key length (u16), key (up to 104 bytes).
@safe final class EntityLayout {
    static let headBytes = 192
    static let keyBytesMax = 104

    let entity: Pipeline.Entity
    let kind: UInt8
    let c: UnsafeMutablePointer<tl_layout_t>

    init(_ pipeline: Pipeline, kind: Int, partitions: Int) {
        let entity = pipeline.entities[kind]
        self.entity = entity
        self.kind = UInt8(kind)
        unsafe c = .allocate(capacity: 1)
        unsafe c.initialize(to: tl_layout_t())
        unsafe c.pointee.measures = UInt32(entity.measures.count)
        unsafe c.pointee.distincts = UInt32(entity.distincts.count)
        unsafe c.pointee.partitions = entity.shared ? UInt32(partitions) : 0
        for level in TileLevel.all {
            let used = entity.windows.filter { $0.level == level.index }
            withLevel(level.index) {
                $0.slots = used.isEmpty ? 0 : UInt32(level.slots)
                $0.width = level.width
                $0.sketches = used.contains(where: \.sketches) ? 1 : 0
                for measure in entity.measures.indices {
                    let columns = Self.columns(pipeline, entity: kind, level: level.index, measure: measure)
                    unsafe withUnsafeMutableBytes(of: &$0.columns) { unsafe $0[measure] = columns }
                }
            }
        }
        unsafe tl_layout_finish(c, UInt32(Self.headBytes))
    }

    deinit { unsafe c.deallocate() }

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
                case .stddev: columns |= Int(TL_COUNT) | Int(TL_SUM) | Int(TL_SQUARE)
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

    func level(_ index: Int) -> tl_level_t {
        switch index {
        case 0: unsafe c.pointee.levels.0
        case 1: unsafe c.pointee.levels.1
        default: unsafe c.pointee.levels.2
        }
    }

    private func withLevel(_ index: Int, _ change: (inout tl_level_t) -> Void) {
        switch index {
        case 0: unsafe change(&c.pointee.levels.0)
        case 1: unsafe change(&c.pointee.levels.1)
        default: unsafe change(&c.pointee.levels.2)
        }
    }
}
