import Changes
import Storage

/// Where an event's row lies in a replica: tenant, then event time, then its place in the input. Rows of a tenant lie in
/// the order of time, so that the newest are one walk backwards, and a vector's row is found from its time and place.
///
/// `e` tenant-length tenant time (i64 big-endian) place (u64 big-endian). A second row, `i` tenant-length tenant id,
/// holds time and place of the id's newest version.
struct EventKey: Equatable {
    var time: Int64
    /// The partition in the upper 12 bits, the input offset in the others.
    var place: UInt64

    init(time: Int64, place: UInt64) {
        self.time = time
        self.place = place
    }

    init(time: Int64, partition: Int, offset: UInt64) {
        self.time = time
        place = UInt64(partition) << 52 | offset & 0xF_FFFF_FFFF_FFFF
    }

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

    static func prefix(tenant: String) -> [UInt8] {
        [View.Prefix.event, UInt8(tenant.utf8.count)] + Array(tenant.utf8)
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
