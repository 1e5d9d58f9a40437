internal import CLZ4
internal import CZstd

/// Everything that one committed transaction changed in one partition: the unit of commit, replication and apply.
///
/// Method: Tideline's own format, version 1. Header (112 bytes), stored body, CRC-32C of both (4 bytes). The body is
/// the frontier read by the batch, then its changes with shared tiles first.
package struct ChangeBatch: Sendable {
    package let header: ChangeBatchHeader
    /// Positions of the other partitions whose shared tiles this batch read.
    package let frontier: [PartitionPosition]
    package let changeCount: Int
    /// How many changes at the front are shared tiles.
    package let sharedCount: Int
    /// CRC-32C of the encoded batch.
    package let checksum: UInt32
    private let body: [UInt8]
    private let changesOffset: Int

    /// A writer's batch ends with the change that reaches so many bytes of body: with that change, and compressed or not, it
    /// is one record of the log and one message of the bus (`encodedBytesMax`).
    package static let bodyBytesAimed = 3 << 19
    /// What the bus must take in one message.
    package static let encodedBytesMax = 2 << 20
    /// A body never decompresses to more than this, whatever its header says.
    package static let bodyBytesMax = 8 << 20
    /// Nor to more than this many times its stored size: an allocation is bounded by its input.
    package static let expansionMax = 256

    /// Checks and decompresses a batch. The bytes are copied.
    package init(decoding bytes: UnsafeRawBufferPointer) throws(ChangeBatchError) {
        let layout = try unsafe Self.layout(of: bytes)
        var reader = layout.afterMagic
        func next<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type = T.self) -> T { reader.read(T.self) ?? 0 }
        let lineage = Lineage(high: next(), low: next())
        let partition: UInt32 = next()
        let changeCount: UInt32 = next()
        let sharedCount: UInt32 = next()
        let schema: UInt32 = next()
        header = ChangeBatchHeader(
            lineage: lineage, partition: partition, seq: next(), firstOffset: next(), endOffset: next(),
            commitTime: next(), watermark: next(), schema: schema, scored: next(), duplicates: next(),
            deadLetters: next(),
            gaps: unsafe UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 100, as: UInt32.self)))
        checksum = layout.checksum
        self.changeCount = Int(changeCount)
        self.sharedCount = Int(sharedCount)
        guard header.endOffset >= header.firstOffset, header.answered == header.endOffset - header.firstOffset,
            sharedCount <= changeCount
        else { throw .inconsistentCounts }
        body = try Self.decompress(layout)
        (frontier, changesOffset) = try Self.validate(body, changes: self.changeCount, shared: self.sharedCount)
    }

    /// Visits each change in order, or only the shared tiles at the front.
    package func forEachChange<Failure: Error>(
        sharedOnly: Bool = false, _ visit: (Change) throws(Failure) -> Void
    ) throws(Failure) {
        // The typed-throws overload of withUnsafeBytes does not carry the failure; a span's pointer does.
        let span = unsafe body.span.bytes
        try unsafe span.withUnsafeBytes { (bytes: UnsafeRawBufferPointer) throws(Failure) in
            var reader = unsafe ByteReader(UnsafeRawBufferPointer(rebasing: bytes[changesOffset...]))
            for _ in 0..<(sharedOnly ? sharedCount : changeCount) {
                guard let change = Change(from: &reader) else { preconditionFailure("a validated batch changed") }
                try visit(change)
            }
        }
    }

    /// The partition's running digest after this batch: a hash over every change ever applied, in order.
    package func digest(after previous: UInt64) -> UInt64 {
        unsafe body.withUnsafeBytes { unsafe stableHash($0, seed: previous ^ header.seq) }
    }
}

extension ChangeBatch {
    @safe fileprivate struct Layout {
        var afterMagic: ByteReader
        var compression: Compression
        var rawLength: Int
        var stored: UnsafeRawBufferPointer
        var checksum: UInt32
    }

    private static func layout(of bytes: UnsafeRawBufferPointer) throws(ChangeBatchError) -> Layout {
        var reader = unsafe ByteReader(bytes)
        guard let magic = reader.read(UInt32.self), let version = reader.read(UInt16.self) else { throw .truncated }
        guard magic == ChangeBatchHeader.magic else { throw .notABatch }
        guard version == ChangeBatchHeader.version else { throw .unknownVersion(version) }
        guard bytes.count >= ChangeBatchHeader.byteCount + 4 else { throw .truncated }
        guard let method = reader.read(UInt8.self), reader.read(UInt8.self) != nil else { throw .truncated }
        let rawLength = unsafe Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 92, as: UInt32.self)))
        let storedLength = unsafe Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 96, as: UInt32.self)))
        guard bytes.count == ChangeBatchHeader.byteCount + storedLength + 4 else { throw .truncated }
        let covered = unsafe UnsafeRawBufferPointer(rebasing: bytes[..<(bytes.count - 4)])
        let checksum = unsafe UInt32(
            littleEndian: bytes.loadUnaligned(fromByteOffset: bytes.count - 4, as: UInt32.self))
        guard unsafe crc32c(covered) == checksum else { throw .checksumMismatch }
        guard let compression = Compression(rawValue: method) else { throw .unknownCompression(method) }
        guard rawLength <= bodyBytesMax, rawLength <= storedLength * expansionMax else {
            throw .bodyTooLarge(bytes: rawLength)
        }
        let stored = unsafe UnsafeRawBufferPointer(rebasing: covered[ChangeBatchHeader.byteCount...])
        return unsafe Layout(
            afterMagic: reader, compression: compression, rawLength: rawLength, stored: stored, checksum: checksum)
    }

    private static func decompress(_ layout: Layout) throws(ChangeBatchError) -> [UInt8] {
        let stored = unsafe layout.stored
        let body = unsafe [UInt8](unsafeUninitializedCapacity: layout.rawLength) { target, count in
            let written: Int
            switch layout.compression {
            case .none:
                written = stored.count == layout.rawLength ? stored.count : -1
                if written > 0, let from = stored.baseAddress, let to = target.baseAddress {
                    unsafe UnsafeMutableRawPointer(to).copyMemory(from: from, byteCount: written)
                }
            case .lz4:
                written = unsafe Int(
                    LZ4_decompress_safe(
                        stored.baseAddress?.assumingMemoryBound(to: CChar.self),
                        UnsafeMutableRawPointer(target.baseAddress)?.assumingMemoryBound(to: CChar.self),
                        Int32(stored.count), Int32(layout.rawLength)))
            case .zstd:
                let result = unsafe ZSTD_decompress(
                    target.baseAddress, layout.rawLength, stored.baseAddress, stored.count)
                written = ZSTD_isError(result) == 0 ? result : -1
            }
            count = max(0, written)
        }
        guard body.count == layout.rawLength else { throw .decompressionFailed }
        return body
    }

    private static func validate(
        _ body: [UInt8], changes: Int, shared: Int
    ) throws(ChangeBatchError) -> (frontier: [PartitionPosition], changesOffset: Int) {
        let parsed: (frontier: [PartitionPosition], changesOffset: Int)? = unsafe body.withUnsafeBytes { bytes in
            var reader = unsafe ByteReader(bytes)
            guard let positions = reader.read(UInt16.self), Int(positions) * 12 <= reader.remaining else { return nil }
            var frontier: [PartitionPosition] = []
            frontier.reserveCapacity(Int(positions))
            for _ in 0..<positions {
                guard let partition = reader.read(UInt32.self), let seq = reader.read(UInt64.self) else { return nil }
                frontier.append(PartitionPosition(partition: partition, seq: seq))
            }
            let offset = reader.offset
            for index in 0..<changes {
                guard let change = Change(from: &reader), (change.kind == .sharedTile) == (index < shared) else {
                    return nil
                }
            }
            return reader.remaining == 0 ? (frontier, offset) : nil
        }
        guard let parsed else { throw .malformedBody }
        return parsed
    }
}
