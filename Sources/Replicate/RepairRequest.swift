import Changes

/// A replica asks for batches that the bus did not bring: `(after, through]` of one partition.
package struct RepairRequest: Equatable, Sendable {
    package var lineage: Lineage
    package var partition: UInt32
    package var after: UInt64
    package var through: UInt64

    package init(lineage: Lineage, partition: UInt32, after: UInt64, through: UInt64) {
        self.lineage = lineage
        self.partition = partition
        self.after = after
        self.through = through
    }

    private static let magic: UInt32 = 0x5252_4C54  // "TLRR"

    package func encoded() -> [UInt8] {
        var writer = ByteWriter(capacity: 64)
        writer.append(Self.magic)
        writer.append(lineage.high)
        writer.append(lineage.low)
        writer.append(partition)
        writer.append(after)
        writer.append(through)
        return unsafe Array(writer.bytes)
    }

    package init?(decoding bytes: UnsafeRawBufferPointer) {
        var reader = unsafe ByteReader(bytes)
        guard reader.read(UInt32.self) == Self.magic, let high = reader.read(UInt64.self),
            let low = reader.read(UInt64.self), let partition = reader.read(UInt32.self),
            let after = reader.read(UInt64.self), let through = reader.read(UInt64.self), reader.remaining == 0,
            through > after
        else { return nil }
        self.init(lineage: Lineage(high: high, low: low), partition: partition, after: after, through: through)
    }
}
