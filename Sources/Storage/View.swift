import Changes

/// How far a view has applied one partition's changelog.
package struct AppliedPosition: Equatable, Sendable {
    package var lineage: Lineage
    /// Of the last batch applied; 0 before the first.
    package var seq: UInt64
    /// The running digest after that batch.
    package var digest: UInt64
    /// Where the input goes on: a read token is reached when this passes it.
    package var endOffset: UInt64
    /// Of the last batch, microseconds since 1970.
    package var commitTime: Int64
    package var watermark: Int64

    package init(
        lineage: Lineage, seq: UInt64 = 0, digest: UInt64 = 0, endOffset: UInt64 = 0, commitTime: Int64 = 0,
        watermark: Int64 = 0
    ) {
        self.lineage = lineage
        self.seq = seq
        self.digest = digest
        self.endOffset = endOffset
        self.commitTime = commitTime
        self.watermark = watermark
    }

    /// The position after `batch`, which follows this one.
    package func advanced(by batch: ChangeBatch) -> AppliedPosition {
        precondition(batch.header.lineage == lineage && batch.header.seq == seq + 1, "a view applies its log in order")
        return AppliedPosition(
            lineage: lineage, seq: batch.header.seq, digest: batch.digest(after: digest),
            endOffset: batch.header.endOffset, commitTime: batch.header.commitTime, watermark: batch.header.watermark)
    }
}

/// A store that is a view of the changelog: whatever is written goes with the frontier in the same batch, so that a
/// crash leaves an older view and never a torn one.
///
/// A view has layers that may stand at different positions, such as events (each batch at once) and tiles (by
/// sweeps): each has its own frontier, and recovery replays from the lower one.
package final class View: Sendable {
    package enum Layer: UInt8, Sendable {
        case events = 1
        case tiles = 2
    }

    package let store: Store

    package init(path: String, _ configuration: Store.Configuration = .init()) throws(StoreError) {
        store = try Store(path: path, configuration)
    }

    /// Key prefixes: the first byte of every key.
    package enum Prefix {
        package static let frontier = UInt8(ascii: "f")
        package static let event = UInt8(ascii: "e")
        package static let identifier = UInt8(ascii: "i")
        package static let tile = UInt8(ascii: "t")
        package static let seen = UInt8(ascii: "s")
        package static let meta = UInt8(ascii: "m")
        /// A row whose vector may stand in a sealed segment, and that is gone.
        package static let deleted = UInt8(ascii: "d")
    }

    /// Writes `batch` and the layer's new frontier as one step.
    package func write(
        _ batch: borrowing StoreBatch, _ layer: Layer, partition: UInt32, position: AppliedPosition
    ) throws(StoreError) {
        batch.put(Self.frontierKey(layer, partition), Self.encode(position))
        try store.write(batch)
    }

    /// Writes rows that lead the layer's frontier, as a sweep does: absolute rows that a replay makes again.
    package func write(ahead batch: borrowing StoreBatch) throws(StoreError) { try store.write(batch) }

    package func position(_ layer: Layer, partition: UInt32) throws -> AppliedPosition? {
        try unsafe store.get(Self.frontierKey(layer, partition)) { unsafe Self.decode($0) } ?? nil
    }

    static func frontierKey(_ layer: Layer, _ partition: UInt32) -> [UInt8] {
        unsafe [Prefix.frontier, layer.rawValue] + withUnsafeBytes(of: partition.bigEndian) { unsafe Array($0) }
    }

    static func encode(_ position: AppliedPosition) -> [UInt8] {
        var writer = ByteWriter(capacity: 64)
        writer.append(position.lineage.high)
        writer.append(position.lineage.low)
        writer.append(position.seq)
        writer.append(position.digest)
        writer.append(position.endOffset)
        writer.append(position.commitTime)
        writer.append(position.watermark)
        return unsafe Array(writer.bytes)
    }

    static func decode(_ bytes: UnsafeRawBufferPointer) -> AppliedPosition? {
        var reader = unsafe ByteReader(bytes)
        guard let high = reader.read(UInt64.self), let low = reader.read(UInt64.self),
            let seq = reader.read(UInt64.self), let digest = reader.read(UInt64.self),
            let endOffset = reader.read(UInt64.self), let commitTime = reader.read(Int64.self),
            let watermark = reader.read(Int64.self)
        else { return nil }
        return AppliedPosition(
            lineage: Lineage(high: high, low: low), seq: seq, digest: digest, endOffset: endOffset,
            commitTime: commitTime, watermark: watermark)
    }
}
