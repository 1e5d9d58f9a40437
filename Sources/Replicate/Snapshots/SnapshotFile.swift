/// An immutable file, named by what is in it.
package struct SnapshotFile: Hashable, Sendable {
    /// 64 lower-case hexadecimal digits.
    package let sha256: String
    /// At least 1.
    package let bytes: Int

    package init(sha256: String, bytes: Int) throws(SnapshotRefusal) {
        guard Self.isDigest(sha256) else {
            throw SnapshotRefusal(
                .malformed, "`\(sha256.prefix(80))` is no SHA-256 in 64 lower-case hexadecimal digits")
        }
        guard bytes > 0 else { throw SnapshotRefusal(.empty, "file \(sha256) has \(bytes) bytes") }
        self.sha256 = sha256
        self.bytes = bytes
    }

    package static func isDigest(_ text: String) -> Bool { isHexadecimal(text, digits: 64) }
}

/// Which files of a snapshot are meant.
package enum SnapshotParts: Sendable {
    case all
    /// The vectors alone: a region that follows the log has the tables already.
    case segments
}

/// Whether `text` is exactly so many lower-case hexadecimal digits.
func isHexadecimal(_ text: String, digits: Int) -> Bool {
    text.utf8.count == digits && text.utf8.allSatisfy { (48...57).contains($0) || (97...102).contains($0) }
}

/// One tenant's vectors, sealed: a file that `Vectors` reads.
package struct SnapshotSegment: Equatable, Sendable {
    package var tenant: String
    package var file: SnapshotFile
    /// At least 1.
    package var rows: Int
    /// The share of true neighbours that a search found when it was sealed, 0…1.
    package var recall: Float

    package init(tenant: String, file: SnapshotFile, rows: Int, recall: Float) {
        self.tenant = tenant
        self.file = file
        self.rows = rows
        self.recall = recall
    }
}

/// One file of a checkpoint of the table store (RocksDB): `CURRENT`, `MANIFEST-…`, `OPTIONS-…`, `….sst`.
package struct SnapshotTable: Equatable, Sendable {
    /// Its name in RocksDB's folder.
    package var name: String
    package var file: SnapshotFile

    package init(name: String, file: SnapshotFile) {
        self.name = name
        self.file = file
    }
}
