/// A growable buffer of raw bytes that is written once and reused: the event path appends here and allocates nothing
/// once the buffer has reached its size.
///
/// Numbers are little-endian. What the event path calls is inlinable: called through the module's border a number costs
/// a generic call (2 % of the scoring thread, perf).
@safe package struct ByteWriter: ~Copyable {
    @usableFromInline package internal(set) var base: UnsafeMutableRawPointer
    @usableFromInline package internal(set) var count = 0
    @usableFromInline var capacity: Int

    package init(capacity: Int = 4096) {
        self.capacity = max(capacity, 64)
        unsafe base = .allocate(byteCount: self.capacity, alignment: 64)
    }

    deinit { unsafe base.deallocate() }

    package var bytes: UnsafeRawBufferPointer { unsafe UnsafeRawBufferPointer(start: base, count: count) }

    @inlinable package mutating func removeAll() { count = 0 }

    /// Bytes that may be read from `base`, written or not.
    package var capacityBytes: Int { capacity }

    /// Forgets what was written after `mark`, for a record that turned out not to fit.
    package mutating func truncate(to mark: Int) {
        precondition(mark <= count)
        count = mark
    }

    /// Makes sure that `extra` more bytes fit.
    @inlinable package mutating func reserve(_ extra: Int) {
        if count + extra > capacity { grow(by: extra) }
    }

    @usableFromInline mutating func grow(by extra: Int) {
        capacity = max(capacity * 2, count + extra)
        let grown = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 64)
        unsafe grown.copyMemory(from: base, byteCount: count)
        unsafe base.deallocate()
        unsafe base = unsafe grown
    }

    /// Takes `length` bytes at the end and gives their address, to be written by the caller at once.
    @inlinable package mutating func extend(by length: Int) -> UnsafeMutableRawPointer {
        reserve(length)
        defer { count += length }
        return unsafe base + count
    }

    @inlinable package mutating func append<T: FixedWidthInteger & BitwiseCopyable>(_ value: T) {
        reserve(MemoryLayout<T>.size)
        unsafe (base + count).storeBytes(of: value.littleEndian, as: T.self)
        count += MemoryLayout<T>.size
    }

    @inlinable package mutating func append(_ value: Float) { append(value.bitPattern) }

    @inlinable package mutating func append(_ value: Double) { append(value.bitPattern) }

    @inlinable package mutating func append(_ bytes: UnsafeRawBufferPointer) {
        guard let source = bytes.baseAddress, bytes.count > 0 else { return }
        unsafe extend(by: bytes.count).copyMemory(from: source, byteCount: bytes.count)
    }

    package mutating func append(_ text: StaticString) {
        unsafe append(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    package mutating func append(utf8 text: String) {
        var text = text
        text.withUTF8 { unsafe append(UnsafeRawBufferPointer($0)) }
    }

    /// Overwrites a number that was left open, such as a count known only at the end.
    package mutating func store<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, at offset: Int) {
        precondition(offset >= 0 && offset + MemoryLayout<T>.size <= count)
        unsafe (base + offset).storeBytes(of: value.littleEndian, as: T.self)
    }
}
