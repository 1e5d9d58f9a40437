import Changes
import Storage

/// What a snapshot is: where the log stood, and which files hold its state there.
package struct SnapshotManifest: Equatable, Sendable {
    package var lineage: Lineage
    /// 1, 2, 3 … of this lineage.
    package var number: UInt64
    /// Microseconds since 1970.
    package var createdAt: Int64
    /// The pipeline's name.
    package var pipeline: String
    package var schema: UInt32
    /// The model's identity; 0 for none.
    package var model: UInt64
    /// Of the vectors; 0 only where there are no segments.
    package var dimensions: Int
    /// `l2`, `cosine` or `inner_product`.
    package var metric: String
    /// What the files hold: one position a partition, in the order of partitions.
    package var positions: [AppliedPosition]
    /// Several a tenant where it has many vectors; none twice.
    package var segments: [SnapshotSegment]
    package var tables: [SnapshotTable]

    package init(
        lineage: Lineage, number: UInt64, createdAt: Int64, pipeline: String, schema: UInt32, model: UInt64,
        dimensions: Int, metric: String, positions: [AppliedPosition], segments: [SnapshotSegment],
        tables: [SnapshotTable]
    ) {
        self.lineage = lineage
        self.number = number
        self.createdAt = createdAt
        self.pipeline = pipeline
        self.schema = schema
        self.model = model
        self.dimensions = dimensions
        self.metric = metric
        self.positions = positions
        self.segments = segments
        self.tables = tables
    }

    package var name: SnapshotName { SnapshotName(lineage: lineage, number: number) }

    /// The distinct files, tables first, in the order of the manifest.
    package var files: [SnapshotFile] { files(.all) }

    package func files(_ parts: SnapshotParts) -> [SnapshotFile] {
        var seen: Set<SnapshotFile> = []
        return ((parts == .all ? tables.map(\.file) : []) + segments.map(\.file)).filter { seen.insert($0).inserted }
    }

    /// Of the distinct files together. Checked: sizes that a manifest claims may add up to more than there is.
    package var bytes: Int { bytes(of: .all) }

    package func bytes(of parts: SnapshotParts) -> Int {
        files(parts).reduce(0) { total, file in
            let (sum, overflow) = total.addingReportingOverflow(file.bytes)
            return overflow ? .max : sum
        }
    }

    // MARK: What a manifest must be

    package static let metrics: Set<String> = ["l2", "cosine", "inner_product"]
    static let partitionsMax = 65_536
    static let entriesMax = 65_536
    static let nameBytesMax = 255
    static let dimensionsMax = 65_536
    /// An encoded manifest is one message of the bus, whose own bound is 2 MB.
    package static let bytesMax = 1_500_000

    /// Whether it says something that can be; what it says is compared with what we want by `SnapshotTerms`.
    package func check() throws(SnapshotRefusal) {
        func refuse(_ detail: String) -> SnapshotRefusal { SnapshotRefusal(.malformed, detail) }
        guard number > 0 else { throw refuse("number 0: snapshots are counted from 1") }
        guard Self.isName(pipeline) else { throw refuse("the pipeline's name `\(pipeline.prefix(80))` is none") }
        guard Self.metrics.contains(metric) else { throw refuse("no metric `\(metric.prefix(80))`") }
        guard (0...Self.dimensionsMax).contains(dimensions) else { throw refuse("\(dimensions) dimensions") }
        guard (1...Self.partitionsMax).contains(positions.count) else { throw refuse("\(positions.count) positions") }
        for (partition, position) in positions.enumerated() where position.lineage != lineage {
            throw refuse("partition \(partition) is of lineage \(position.lineage), the snapshot of \(lineage)")
        }
        guard segments.count <= Self.entriesMax, tables.count <= Self.entriesMax else {
            throw SnapshotRefusal(.tooLarge, "\(segments.count) segments and \(tables.count) tables")
        }
        guard !segments.isEmpty || !tables.isEmpty else { throw SnapshotRefusal(.empty, "a snapshot without files") }
        guard segments.isEmpty || dimensions > 0 else { throw refuse("segments of vectors without dimensions") }
        var owned: Set<String> = []
        for segment in segments {
            guard !segment.tenant.isEmpty, segment.tenant.utf8.count <= Self.nameBytesMax else {
                throw refuse("a tenant's name of \(segment.tenant.utf8.count) bytes")
            }
            guard owned.insert("\(segment.file.sha256) \(segment.tenant)").inserted else {
                throw refuse("`\(segment.tenant)` has the segment \(segment.file.sha256) twice")
            }
            guard segment.rows > 0 else {
                throw SnapshotRefusal(.empty, "the segment of `\(segment.tenant)` has no rows")
            }
            guard segment.recall >= 0, segment.recall <= 1 else {
                throw refuse("the segment of `\(segment.tenant)` has a recall of \(segment.recall)")
            }
        }
        var names: Set<String> = []
        for table in tables {
            guard Self.isName(table.name) else {
                throw refuse("a table's file may not be named `\(table.name.prefix(80))`")
            }
            guard names.insert(table.name).inserted else { throw refuse("two tables are named `\(table.name)`") }
        }
        var sizes: [String: Int] = [:]
        for file in tables.map(\.file) + segments.map(\.file) {
            if let known = sizes.updateValue(file.bytes, forKey: file.sha256), known != file.bytes {
                throw refuse("file \(file.sha256) has two sizes, \(known) and \(file.bytes)")
            }
        }
    }

    /// A file's name: no folder, no control character, none that begins with a dot.
    static func isName(_ text: String) -> Bool {
        !text.isEmpty && text.utf8.count <= nameBytesMax && !text.hasPrefix(".") && !text.contains("..")
            && text.utf8.allSatisfy { $0 > 0x20 && $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: "\\") && $0 != 0x7F }
    }
}
