import Changes
import Storage

/// The rows of the embedded log. Numbers in keys are big-endian, so that rows lie in their order.
///
/// - `l`: lineage (2 × u64), partitions (u32), format (u32).
/// - `i` partition firstOffset: a chunk of events: append time (i64), count (u32), ends (u32 each), bytes.
/// - `c` partition seq: an encoded change batch.
/// - `o` partition seq: its scores, one JSON line each.
/// - `d` partition seq: its dead letters.
enum EmbeddedLogKeys {
    static let identity: [UInt8] = [UInt8(ascii: "l")]
    static let input = UInt8(ascii: "i")
    static let changes = UInt8(ascii: "c")
    static let scores = UInt8(ascii: "o")
    static let deadLetters = UInt8(ascii: "d")
    static let format: UInt32 = 2

    static func key(_ kind: UInt8, _ partition: Int, _ position: UInt64) -> [UInt8] {
        var key = prefix(kind, partition)
        for shift in stride(from: 56, through: 0, by: -8) {
            key.append(UInt8(truncatingIfNeeded: position >> UInt64(shift)))
        }
        return key
    }

    static func prefix(_ kind: UInt8, _ partition: Int) -> [UInt8] {
        let partition = UInt32(partition)
        return [
            kind, UInt8(truncatingIfNeeded: partition >> 24), UInt8(truncatingIfNeeded: partition >> 16),
            UInt8(truncatingIfNeeded: partition >> 8), UInt8(truncatingIfNeeded: partition),
        ]
    }

    static func position(of key: UnsafeRawBufferPointer) -> UInt64 {
        unsafe UInt64(bigEndian: key.loadUnaligned(fromByteOffset: 5, as: UInt64.self))
    }
}

/// A chunk of events as it lies in the log.
@safe struct InputChunk {
    let appendTime: Int64
    let count: Int
    private let bytes: UnsafeRawBufferPointer

    init?(_ bytes: UnsafeRawBufferPointer) {
        var reader = unsafe ByteReader(bytes)
        guard let time = reader.read(Int64.self), let count = reader.read(UInt32.self),
            Int(count) * 4 <= reader.remaining
        else { return nil }
        appendTime = time
        self.count = Int(count)
        unsafe self.bytes = unsafe bytes
    }

    func event(_ index: Int) -> UnsafeRawBufferPointer {
        let data = 12 + count * 4
        func end(_ index: Int) -> Int {
            unsafe Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 12 + index * 4, as: UInt32.self)))
        }
        return unsafe UnsafeRawBufferPointer(
            rebasing: bytes[(data + (index == 0 ? 0 : end(index - 1)))..<(data + end(index))])
    }
}
