/// How the body of a batch is compressed, named in its header.
package enum Compression: UInt8, Sendable {
    case none = 0
    case lz4 = 1
    case zstd = 2
}

/// A partition's position in the changelog, as one batch read it.
package struct PartitionPosition: Equatable, Sendable {
    package var partition: UInt32
    package var seq: UInt64

    package init(partition: UInt32, seq: UInt64) {
        self.partition = partition
        self.seq = seq
    }
}

/// What a batch says of itself, 112 bytes at its front.
package struct ChangeBatchHeader: Equatable, Sendable {
    /// Offsets that this batch answers for, as its counts say.
    var answered: UInt64 { UInt64(scored) + UInt64(duplicates) + UInt64(deadLetters) + UInt64(gaps) }

    package static let magic: UInt32 = 0x4243_4C54  // "TLCB"
    package static let version: UInt16 = 1
    package static let byteCount = 112

    package var lineage: Lineage
    package var partition: UInt32
    /// 1, 2, 3 … without gaps, given inside the transaction.
    package var seq: UInt64
    /// The input that this batch answers for: `[firstOffset, endOffset)` of the partition.
    package var firstOffset: UInt64
    package var endOffset: UInt64
    /// Microseconds since 1970 when the transaction was staged.
    package var commitTime: Int64
    /// The greatest event time seen, in microseconds since 1970; times too far ahead do not move it.
    package var watermark: Int64
    /// The pipeline's schema version.
    package var schema: UInt32
    /// Each input offset is one of the four: their sum is `endOffset - firstOffset`.
    package var scored: UInt32
    package var duplicates: UInt32
    package var deadLetters: UInt32
    /// Offsets that hold no record: transaction markers, what was compacted or aborted. None in an embedded log.
    package var gaps: UInt32

    package init(
        lineage: Lineage, partition: UInt32, seq: UInt64, firstOffset: UInt64, endOffset: UInt64, commitTime: Int64,
        watermark: Int64, schema: UInt32, scored: UInt32 = 0, duplicates: UInt32 = 0, deadLetters: UInt32 = 0,
        gaps: UInt32 = 0
    ) {
        self.lineage = lineage
        self.partition = partition
        self.seq = seq
        self.firstOffset = firstOffset
        self.endOffset = endOffset
        self.commitTime = commitTime
        self.watermark = watermark
        self.schema = schema
        self.scored = scored
        self.duplicates = duplicates
        self.deadLetters = deadLetters
        self.gaps = gaps
    }
}
