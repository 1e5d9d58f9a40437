/// A cursor over bytes that checks every step: what is not there is `nil`, never a crash.
///
/// Numbers are little-endian. The bytes must outlive the cursor.
@safe package struct ByteReader {
    package let bytes: UnsafeRawBufferPointer
    package private(set) var offset = 0

    package init(_ bytes: UnsafeRawBufferPointer) { unsafe self.bytes = unsafe bytes }

    package var remaining: Int { unsafe bytes.count - offset }

    package mutating func read<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type = T.self) -> T? {
        guard remaining >= MemoryLayout<T>.size else { return nil }
        defer { offset += MemoryLayout<T>.size }
        return unsafe T(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: T.self))
    }

    package mutating func readFloat() -> Float? { read(UInt32.self).map(Float.init(bitPattern:)) }

    package mutating func readDouble() -> Double? { read(UInt64.self).map(Double.init(bitPattern:)) }

    package mutating func read(count: Int) -> UnsafeRawBufferPointer? {
        guard count >= 0, remaining >= count else { return nil }
        defer { offset += count }
        return unsafe UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
    }
}
