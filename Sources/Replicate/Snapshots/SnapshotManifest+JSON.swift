internal import Foundation
import Changes
import Storage

/// A manifest's text: JSON with sorted keys. Numbers of 64 bits are strings, since many readers of JSON keep 53.
extension SnapshotManifest {
    /// The version that this program writes, and the only one that it reads.
    package static let version = 1

    /// Throws where the manifest does not hold what `check` demands, or is larger than a message of the bus.
    package func encoded() throws -> [UInt8] {
        try check()
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let bytes = Array(try encoder.encode(Wire(self)))
        guard bytes.count <= Self.bytesMax else {
            throw SnapshotRefusal(
                .tooLarge, "a manifest of \(bytes.count) bytes; a message of the bus takes \(Self.bytesMax)")
        }
        return bytes
    }

    package init(decoding bytes: [UInt8]) throws(SnapshotRefusal) {
        guard bytes.count <= Self.bytesMax else {
            throw SnapshotRefusal(.tooLarge, "a manifest of \(bytes.count) bytes, over \(Self.bytesMax)")
        }
        guard !bytes.isEmpty else { throw SnapshotRefusal(.empty, "a manifest of 0 bytes") }
        let data = Data(bytes)
        let decoder = JSONDecoder()
        let version: Int
        do {
            version = try decoder.decode(WireVersion.self, from: data).version
        } catch {
            throw SnapshotRefusal(.malformed, "no manifest: \(Self.text(of: error))")
        }
        guard version == Self.version else {
            throw SnapshotRefusal(
                .malformed, "a manifest of version \(version); this program reads version \(Self.version)")
        }
        let wire: Wire
        do {
            wire = try decoder.decode(Wire.self, from: data)
        } catch {
            throw SnapshotRefusal(.malformed, "no manifest: \(Self.text(of: error))")
        }
        self = try wire.manifest()
        try check()
    }

    private static func text(of error: any Error) -> String {
        func place(_ context: DecodingError.Context) -> String {
            let path = context.codingPath.map(\.stringValue).joined(separator: ".")
            return path.isEmpty ? context.debugDescription : "\(path): \(context.debugDescription)"
        }
        return switch error {
        case DecodingError.keyNotFound(let key, _): "`\(key.stringValue)` is missing"
        case DecodingError.typeMismatch(_, let context), DecodingError.valueNotFound(_, let context),
            DecodingError.dataCorrupted(let context):
            place(context)
        default: "\(error)"
        }
    }
}

private struct WireVersion: Codable {
    var version: Int
}

private struct Wire: Codable {
    struct Position: Codable {
        var seq: String
        var digest: String
        var endOffset: String
        var commitTime: String
        var watermark: String
    }

    struct Segment: Codable {
        var tenant: String
        var sha256: String
        var bytes: Int
        var rows: Int
        var recall: Float
    }

    struct Table: Codable {
        var name: String
        var sha256: String
        var bytes: Int
    }

    var version: Int
    var lineage: String
    var number: String
    var createdAt: String
    var pipeline: String
    var schema: UInt32
    var model: String
    var dimensions: Int
    var metric: String
    var positions: [Position]
    var segments: [Segment]
    var tables: [Table]

    init(_ manifest: SnapshotManifest) {
        version = SnapshotManifest.version
        lineage = "\(manifest.lineage)"
        number = "\(manifest.number)"
        createdAt = "\(manifest.createdAt)"
        pipeline = manifest.pipeline
        schema = manifest.schema
        model = Self.hexadecimal(manifest.model)
        dimensions = manifest.dimensions
        metric = manifest.metric
        positions = manifest.positions.map {
            Position(
                seq: "\($0.seq)", digest: Self.hexadecimal($0.digest), endOffset: "\($0.endOffset)",
                commitTime: "\($0.commitTime)", watermark: "\($0.watermark)")
        }
        segments = manifest.segments.map {
            Segment(
                tenant: $0.tenant, sha256: $0.file.sha256, bytes: $0.file.bytes, rows: $0.rows, recall: $0.recall)
        }
        tables = manifest.tables.map { Table(name: $0.name, sha256: $0.file.sha256, bytes: $0.file.bytes) }
    }

    func manifest() throws(SnapshotRefusal) -> SnapshotManifest {
        guard let lineage = Lineage(self.lineage) else {
            throw SnapshotRefusal(.malformed, "`\(self.lineage.prefix(80))` is no lineage")
        }
        var positions: [AppliedPosition] = []
        for position in self.positions {
            positions.append(
                AppliedPosition(
                    lineage: lineage, seq: try Self.number(position.seq, "seq"),
                    digest: try Self.bits(position.digest, "digest"),
                    endOffset: try Self.number(position.endOffset, "endOffset"),
                    commitTime: try Self.number(position.commitTime, "commitTime"),
                    watermark: try Self.number(position.watermark, "watermark")))
        }
        var segments: [SnapshotSegment] = []
        for segment in self.segments {
            segments.append(
                SnapshotSegment(
                    tenant: segment.tenant, file: try SnapshotFile(sha256: segment.sha256, bytes: segment.bytes),
                    rows: segment.rows, recall: segment.recall))
        }
        var tables: [SnapshotTable] = []
        for table in self.tables {
            tables.append(
                SnapshotTable(name: table.name, file: try SnapshotFile(sha256: table.sha256, bytes: table.bytes)))
        }
        return SnapshotManifest(
            lineage: lineage, number: try Self.number(number, "number"),
            createdAt: try Self.number(createdAt, "createdAt"), pipeline: pipeline, schema: schema,
            model: try Self.bits(model, "model"), dimensions: dimensions, metric: metric, positions: positions,
            segments: segments, tables: tables)
    }

    private static func number<Number: FixedWidthInteger>(
        _ text: String, _ name: String
    ) throws(SnapshotRefusal) -> Number {
        guard let value = Number(text), "\(value)" == text else {
            throw SnapshotRefusal(.malformed, "`\(name)` is no whole number of 64 bits: `\(text.prefix(80))`")
        }
        return value
    }

    private static func bits(_ text: String, _ name: String) throws(SnapshotRefusal) -> UInt64 {
        guard isHexadecimal(text, digits: 16), let value = UInt64(text, radix: 16) else {
            throw SnapshotRefusal(.malformed, "`\(name)` is not 16 hexadecimal digits: `\(text.prefix(80))`")
        }
        return value
    }

    private static func hexadecimal(_ value: UInt64) -> String {
        let text = String(value, radix: 16)
        return String(repeating: "0", count: 16 - text.utf8.count) + text
    }
}
