import Changes
import Foundation
import Storage

@testable import Replicate

/// A folder of one test, removed with it.
final class TestFolder {
    let path = NSTemporaryDirectory() + "/snapshots-\(UUID().uuidString)"

    init() throws { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// Writes a file of so many bytes that follow from its name, and returns its path.
    @discardableResult
    func write(_ name: String, bytes: Int) throws -> String {
        let file = "\(path)/\(name)"
        var state = name.utf8.reduce(UInt64(1469)) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
        let content = (0..<bytes).map { _ in
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return UInt8(truncatingIfNeeded: state >> 56)
        }
        try Data(content).write(to: URL(filePath: file))
        return file
    }
}

/// A sealer in small: a store whose snapshots hold files that follow from their names.
struct TestSealer {
    let folder: TestFolder
    let key: SigningKey
    let store: SnapshotStore
    static let lineage = Lineage(high: 7, low: 11)

    init(in folder: TestFolder) throws {
        self.folder = folder
        key = try SigningKey()
        store = try SnapshotStore(path: folder.path + "/sealer", trusting: key.trusted)
    }

    static func manifest(number: UInt64 = 1, lineage: Lineage = lineage) throws -> SnapshotManifest {
        SnapshotManifest(
            lineage: lineage, number: number, createdAt: 1_790_000_000_123_456 + Int64(number), pipeline: "cards",
            schema: 3, model: 0xFEDC_BA98_7654_3210, dimensions: 32, metric: "l2",
            positions: [
                AppliedPosition(
                    lineage: lineage, seq: .max, digest: 0x0102, endOffset: 1 << 63, commitTime: .min, watermark: -5),
                AppliedPosition(lineage: lineage),
            ],
            segments: [
                SnapshotSegment(
                    tenant: "acme \"é\"",
                    file: try SnapshotFile(sha256: String(repeating: "a1", count: 32), bytes: 12), rows: 9,
                    recall: 0.98)
            ],
            tables: [
                SnapshotTable(
                    name: "000012.sst", file: try SnapshotFile(sha256: String(repeating: "0f", count: 32), bytes: 1))
            ])
    }

    /// A snapshot whose files, by name and size, are in the store; not published yet.
    func seal(_ number: UInt64, _ sizes: [(name: String, bytes: Int)]) throws -> SignedManifest {
        var manifest = try Self.manifest(number: number)
        manifest.tables = []
        manifest.segments = try sizes.map { name, bytes in
            let file = try store.add(movingFileAt: folder.write(name, bytes: bytes))
            return SnapshotSegment(tenant: name, file: file, rows: 1, recall: 1)
        }
        return try SignedManifest(manifest, by: key)
    }

    @discardableResult
    func publish(_ number: UInt64, _ sizes: [(name: String, bytes: Int)]) throws -> SignedManifest {
        let signed = try seal(number, sizes)
        try store.publish(signed)
        return signed
    }

    /// An empty store of a region that trusts this sealer.
    func region() throws -> SnapshotStore {
        try SnapshotStore(path: folder.path + "/region", trusting: key.trusted, holding: .segments)
    }
}

/// Why `body` was refused; `nil` where it was not.
func refusal(_ body: () throws -> Void) throws -> SnapshotRefusal.Reason? {
    do {
        try body()
        return nil
    } catch let refusal as SnapshotRefusal { return refusal.reason }
}
