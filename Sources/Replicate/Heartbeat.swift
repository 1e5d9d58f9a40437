import Changes

/// What a relay says once a second, so that silence never reads as fresh: where each partition's log stands.
package struct Heartbeat: Equatable, Sendable {
    package struct Head: Equatable, Sendable {
        package var partition: UInt32
        /// The last committed batch.
        package var seq: UInt64
        /// The running digest after it; 0 where the relay does not know it.
        package var digest: UInt64
        /// Microseconds since 1970.
        package var commitTime: Int64
        package var watermark: Int64

        package init(partition: UInt32, seq: UInt64, digest: UInt64, commitTime: Int64, watermark: Int64) {
            self.partition = partition
            self.seq = seq
            self.digest = digest
            self.commitTime = commitTime
            self.watermark = watermark
        }
    }

    package var lineage: Lineage
    /// By the relay's clock, microseconds since 1970.
    package var sentAt: Int64
    /// Which relay speaks: a number that each makes up when it starts.
    package var sender: UInt64
    /// When it was sent by the relay's clock that nobody sets (`WallClock.unset`), before the heads were asked for.
    package var sent: Int64
    /// How many partitions the log has: the heads may be those of some, where several cores share it.
    package var partitions: Int
    package var heads: [Head]

    package init(lineage: Lineage, sentAt: Int64, sender: UInt64, sent: Int64, partitions: Int, heads: [Head]) {
        self.lineage = lineage
        self.sentAt = sentAt
        self.sender = sender
        self.sent = sent
        self.partitions = partitions
        self.heads = heads
    }

    private static let magic: UInt32 = 0x4248_4C54  // "TLHB"
    /// 3: since then it says who sends it, and when by a clock that nobody sets.
    private static let version: UInt16 = 3

    package func encoded() -> [UInt8] {
        var writer = ByteWriter(capacity: 80 + heads.count * 36)
        writer.append(Self.magic)
        writer.append(Self.version)
        writer.append(UInt16(heads.count))
        writer.append(UInt32(partitions))
        writer.append(lineage.high)
        writer.append(lineage.low)
        writer.append(sentAt)
        writer.append(sender)
        writer.append(sent)
        for head in heads {
            writer.append(head.partition)
            writer.append(head.seq)
            writer.append(head.digest)
            writer.append(head.commitTime)
            writer.append(head.watermark)
        }
        writer.append(unsafe crc32c(writer.bytes))
        return unsafe Array(writer.bytes)
    }

    /// `nil` where the bytes are not a heartbeat that this program reads.
    package init?(decoding bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= 40 else { return nil }
        let covered = unsafe UnsafeRawBufferPointer(rebasing: bytes[..<(bytes.count - 4)])
        var reader = unsafe ByteReader(covered)
        guard
            unsafe crc32c(covered)
                == UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: bytes.count - 4, as: UInt32.self)),
            reader.read(UInt32.self) == Self.magic, reader.read(UInt16.self) == Self.version,
            let count = reader.read(UInt16.self),
            let partitions = reader.read(UInt32.self), partitions > 0, partitions <= 65_536,
            let high = reader.read(UInt64.self), let low = reader.read(UInt64.self),
            let sentAt = reader.read(Int64.self),
            let sender = reader.read(UInt64.self), let sent = reader.read(Int64.self),
            reader.remaining == Int(count) * 36
        else { return nil }
        lineage = Lineage(high: high, low: low)
        self.sentAt = sentAt
        self.sender = sender
        self.sent = sent
        self.partitions = Int(partitions)
        heads = []
        for _ in 0..<count {
            guard let partition = reader.read(UInt32.self), let seq = reader.read(UInt64.self),
                let digest = reader.read(UInt64.self), let commitTime = reader.read(Int64.self),
                let watermark = reader.read(Int64.self)
            else { return nil }
            heads.append(
                Head(partition: partition, seq: seq, digest: digest, commitTime: commitTime, watermark: watermark))
        }
    }
}
