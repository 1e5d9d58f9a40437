/// Where snapshots come from: a sealer over the bus, or a store in this process.
///
/// Nothing that it says is trusted: an envelope carries a signature, and a file's name is its hash. A source that cannot
/// answer throws a `SnapshotRefusal`, `unavailable` where asking again may help.
package protocol SnapshotSource: Sendable {
    /// The newest envelope that was announced for the pipeline; `nil` where none is known yet. Does not wait.
    func latest() throws -> [UInt8]?
    /// The envelope of one snapshot; `nil` where the source has none of that number.
    func manifest(number: UInt64) throws -> [UInt8]?
    /// At most `length` bytes of a file from `offset`. Blocking.
    func chunk(of file: SnapshotFile, offset: Int, length: Int) throws -> [UInt8]
    /// Hands over a file's bytes from `offset` to its end, in order, several requests ahead, so that a round trip does not
    /// bound the rate; what is under way is bounded. Ends early where `take` throws. Blocking.
    func chunks(of file: SnapshotFile, from offset: Int, _ take: (_ bytes: [UInt8]) throws -> Void) throws
}

/// The bounds of requests for parts of files.
package enum SnapshotChunk {
    /// What a fetch asks for.
    package static let bytes = 256 << 10
    /// What a server gives at most.
    package static let bytesMax = 1 << 20
    /// Requests under way at once.
    package static let window = 8
}

extension SnapshotSource {
    package func manifest(number: UInt64) throws -> [UInt8]? { nil }

    /// One request after the other: for sources without a round trip.
    package func chunks(of file: SnapshotFile, from offset: Int, _ take: (_ bytes: [UInt8]) throws -> Void) throws {
        var offset = offset
        while offset < file.bytes {
            let length = min(SnapshotChunk.bytes, file.bytes - offset)
            let bytes = try chunk(of: file, offset: offset, length: length)
            guard bytes.count <= length else {
                throw SnapshotRefusal(.size, "an answer of \(bytes.count) bytes where \(length) were asked for")
            }
            try take(bytes)
            guard bytes.count == length else { return }
            offset += length
        }
    }
}
