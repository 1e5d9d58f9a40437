import Changes
import Storage

/// Where an event's row lies in a replica: tenant, then event time, then its place in the input. Rows of a tenant lie in
/// the order of time, so that the newest are one walk backwards, and a vector's row is found from its time and place.
///
/// `e` tenant-length tenant time (i64 big-endian) place (u64 big-endian). A second row, `i` tenant-length tenant id,
/// holds time and place of the id's newest version. A third, `d` tenant-length tenant place, remembers a row that is gone
/// while a sealed segment may still hold its vector.
struct EventKey: Equatable {
    var time: Int64
    /// The partition in the upper 12 bits, the input offset in the others.
    var place: UInt64

    static let offsetMask: UInt64 = 0xF_FFFF_FFFF_FFFF

    init(time: Int64, place: UInt64) {
        self.time = time
        self.place = place
    }

    init(time: Int64, partition: Int, offset: UInt64) {
        self.time = time
        place = UInt64(partition) << 52 | offset & Self.offsetMask
    }

    var partition: Int { Self.partition(of: place) }

    static func partition(of place: UInt64) -> Int { Int(place >> 52) }

    func row(tenant: UnsafeRawBufferPointer) -> [UInt8] {
        var key: [UInt8] = [View.Prefix.event, UInt8(tenant.count)]
        key.reserveCapacity(18 + tenant.count)
        unsafe key.append(contentsOf: tenant)
        unsafe withUnsafeBytes(of: time.bigEndian) { unsafe key.append(contentsOf: $0) }
        unsafe withUnsafeBytes(of: place.bigEndian) { unsafe key.append(contentsOf: $0) }
        return key
    }

    func row(tenant: String) -> [UInt8] {
        var tenant = tenant
        return tenant.withUTF8 { unsafe row(tenant: UnsafeRawBufferPointer($0)) }
    }

    /// Lends the key under which an id finds its event.
    static func withIdentifier<R>(
        tenant: String, id: String, _ use: (UnsafeRawBufferPointer) throws -> R
    ) rethrows -> R {
        var id = id
        return try id.withUTF8 { try unsafe withIdentifier(tenant: tenant, id: UnsafeRawBufferPointer($0), use) }
    }

    static func withIdentifier<R>(
        tenant: String, id: UnsafeRawBufferPointer, _ use: (UnsafeRawBufferPointer) throws -> R
    ) rethrows -> R {
        var tenant = tenant
        return try tenant.withUTF8 { name in
            let count = 2 + name.count + id.count
            return try unsafe withUnsafeTemporaryAllocation(byteCount: count, alignment: 8) { bytes in
                unsafe bytes[0] = View.Prefix.identifier
                unsafe bytes[1] = UInt8(name.count)
                unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[2...]).copyMemory(
                    from: UnsafeRawBufferPointer(name))
                unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[(2 + name.count)...]).copyMemory(from: id)
                return try unsafe use(UnsafeRawBufferPointer(bytes))
            }
        }
    }

    /// Lends a row's key, without an array of it.
    func withRow<R>(tenant: String, _ use: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        var tenant = tenant
        return try tenant.withUTF8 { name in
            try unsafe withUnsafeTemporaryAllocation(byteCount: 18 + name.count, alignment: 8) { bytes in
                unsafe bytes[0] = View.Prefix.event
                unsafe bytes[1] = UInt8(name.count)
                unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[2...]).copyMemory(
                    from: UnsafeRawBufferPointer(name))
                unsafe bytes.storeBytes(of: time.bigEndian, toByteOffset: 2 + name.count, as: Int64.self)
                unsafe bytes.storeBytes(of: place.bigEndian, toByteOffset: 10 + name.count, as: UInt64.self)
                return try unsafe use(UnsafeRawBufferPointer(bytes))
            }
        }
    }

    /// Lends the key as a page's cursor: 32 hexadecimal digits.
    func withCursor<R>(_ use: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try unsafe withUnsafeTemporaryAllocation(byteCount: 32, alignment: 8) { digits in
            for (half, word) in [UInt64(bitPattern: time), place].enumerated() {
                for place in 0..<16 {
                    let nibble = UInt8(word >> UInt64(60 - place * 4) & 15)
                    unsafe digits[half * 16 + place] = nibble < 10 ? 48 + nibble : 87 + nibble
                }
            }
            return try unsafe use(UnsafeRawBufferPointer(digits))
        }
    }

    init?(cursor: String) {
        guard cursor.utf8.count == 32, let first = UInt64(cursor.prefix(16), radix: 16),
            let second = UInt64(cursor.suffix(16), radix: 16)
        else { return nil }
        time = Int64(bitPattern: first)
        place = second
    }

    static func prefix(tenant: String) -> [UInt8] {
        [View.Prefix.event, UInt8(tenant.utf8.count)] + Array(tenant.utf8)
    }

    static func deletedPrefix(tenant: UnsafeRawBufferPointer) -> [UInt8] {
        unsafe [View.Prefix.deleted, UInt8(tenant.count)] + Array(tenant)
    }

    func deletedRow(tenant: UnsafeRawBufferPointer) -> [UInt8] {
        unsafe Self.deletedPrefix(tenant: tenant) + withUnsafeBytes(of: place.bigEndian) { unsafe Array($0) }
    }

    /// Reads the end of a row's key.
    init?(row key: UnsafeRawBufferPointer) {
        guard key.count >= 18 else { return nil }
        time = unsafe Int64(bigEndian: key.loadUnaligned(fromByteOffset: key.count - 16, as: Int64.self))
        place = unsafe UInt64(bigEndian: key.loadUnaligned(fromByteOffset: key.count - 8, as: UInt64.self))
    }

    /// The value of an id's row.
    var bytes: [UInt8] {
        var bytes: [UInt8] = []
        unsafe withUnsafeBytes(of: time.bigEndian) { unsafe bytes.append(contentsOf: $0) }
        unsafe withUnsafeBytes(of: place.bigEndian) { unsafe bytes.append(contentsOf: $0) }
        return bytes
    }

    init?(value: UnsafeRawBufferPointer) {
        guard value.count == 16 else { return nil }
        time = unsafe Int64(bigEndian: value.loadUnaligned(as: Int64.self))
        place = unsafe UInt64(bigEndian: value.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
    }
}
