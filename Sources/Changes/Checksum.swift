internal import CChecksum

/// CRC-32C of bytes.
package func crc32c(_ bytes: UnsafeRawBufferPointer, continuing crc: UInt32 = 0) -> UInt32 {
    unsafe tl_crc32c(crc, bytes.baseAddress, bytes.count)
}

/// The project's one 64-bit hash: partitions, sketches and digests are made of it, so it never changes.
package func stableHash(_ bytes: UnsafeRawBufferPointer, seed: UInt64 = 0) -> UInt64 {
    unsafe tl_hash64(bytes.baseAddress, bytes.count, seed)
}

/// Asks the processor for a cache line. A hint.
package func prefetch(_ address: UnsafeRawPointer) { unsafe tl_prefetch_line(address) }

/// A 128-bit hash that stands for an event id: two of a billion ids collide with probability under 10⁻²⁰.
package struct IdentityHash: Hashable, Sendable {
    package var low: UInt64
    package var high: UInt64

    package init(low: UInt64, high: UInt64) {
        self.low = low
        self.high = high
    }

    package init(of bytes: UnsafeRawBufferPointer, seed: UInt64) {
        let hash = unsafe tl_hash128(bytes.baseAddress, bytes.count, seed)
        low = hash.low
        high = hash.high
    }
}

/// The partition of an entity: its hash, folded onto the number of partitions without a division's bias.
package func partition(of entity: UnsafeRawBufferPointer, count: Int) -> Int {
    unsafe Int(truncatingIfNeeded: stableHash(entity, seed: 0x7061_7274).multipliedFullWidth(by: UInt64(count)).high)
}
