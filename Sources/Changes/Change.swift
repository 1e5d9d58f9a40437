/// What a change changes. The raw value is on the wire and in every store: never reuse one.
package enum ChangeKind: UInt8, Sendable, CaseIterable {
    /// One scored event: `EventRecord`.
    case event = 1
    /// Window tiles of one entity of the partition: `TileRecord` of Features.
    case tile = 2
    /// Tiles that other partitions merge when they read: they stand first in a batch.
    case sharedTile = 3
    /// The pipeline and model in force.
    case control = 4
}

package enum ChangeOperation: UInt8, Sendable {
    case upsert = 0
    case delete = 1
}

/// One change of a batch, seen in the batch's own bytes: absolute, never a delta.
///
/// Valid only while the batch is borrowed.
@safe package struct Change {
    package let operation: ChangeOperation
    package let kind: ChangeKind
    /// A tenant's key: length of the tenant's name (1 byte), the name, then the rest by kind.
    package let key: UnsafeRawBufferPointer
    package let value: UnsafeRawBufferPointer
    /// Little-endian Float32s, 4-byte aligned or not; empty where there is no vector.
    package let vector: UnsafeRawBufferPointer

    /// operation and kind (1), reserved (1), key length (2), value length (4), vector dimension (2), reserved (2).
    package static let headerBytes = 12

    /// The tenant's name and the rest of the key.
    package var tenantAndRest: (tenant: UnsafeRawBufferPointer, rest: UnsafeRawBufferPointer) {
        let length = unsafe Int(key[0])
        return unsafe (
            UnsafeRawBufferPointer(rebasing: key[1..<1 + length]),
            UnsafeRawBufferPointer(rebasing: key[(1 + length)...])
        )
    }

    /// Reads one change; `nil` where the bytes do not hold one.
    init?(from reader: inout ByteReader) {
        guard let tag = reader.read(UInt8.self), let reserved = reader.read(UInt8.self),
            let keyLength = reader.read(UInt16.self), let valueLength = reader.read(UInt32.self),
            let dimension = reader.read(UInt16.self), let reserved2 = reader.read(UInt16.self), reserved == 0,
            reserved2 == 0, let operation = ChangeOperation(rawValue: tag >> 7),
            let kind = ChangeKind(rawValue: tag & 0x7F), let key = unsafe reader.read(count: Int(keyLength)),
            let value = unsafe reader.read(count: Int(valueLength)),
            let vector = unsafe reader.read(count: Int(dimension) * 4),
            key.count >= 1, unsafe key.count >= 1 + Int(key[0])
        else { return nil }
        self.operation = operation
        self.kind = kind
        unsafe self.key = unsafe key
        unsafe self.value = unsafe value
        unsafe self.vector = unsafe vector
    }
}
