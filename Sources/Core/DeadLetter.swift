import Changes

/// An event that could not be scored: where it lay, why, and its original bytes.
package struct DeadLetter: Sendable, Equatable {
    package let offset: UInt64
    /// When the log took the event, microseconds since 1970.
    package let appendTime: Int64
    package let reason: String
    package let bytes: [UInt8]

    /// Appends a record: offset (u64), append time (i64), length of the reason (u16), of the bytes (u32), both.
    static func write(
        offset: UInt64, appendTime: Int64, reason: String, bytes: UnsafeRawBufferPointer, to writer: inout ByteWriter
    ) {
        writer.append(offset)
        writer.append(appendTime)
        let reason = reason.utf8.prefix(1000)
        writer.append(UInt16(reason.count))
        writer.append(UInt32(bytes.count))
        for byte in reason { writer.append(byte) }
        unsafe writer.append(bytes)
    }

    /// Reads the records of one transaction; `nil` where the bytes are not such records.
    package static func read(_ bytes: UnsafeRawBufferPointer) -> [DeadLetter]? {
        var reader = unsafe ByteReader(bytes)
        var letters: [DeadLetter] = []
        while reader.remaining > 0 {
            guard let offset = reader.read(UInt64.self), let time = reader.read(Int64.self),
                let reasonLength = reader.read(UInt16.self), let length = reader.read(UInt32.self),
                let reason = unsafe reader.read(count: Int(reasonLength)),
                let body = unsafe reader.read(count: Int(length))
            else { return nil }
            letters.append(
                unsafe DeadLetter(
                    offset: offset, appendTime: time, reason: String(decoding: reason, as: UTF8.self),
                    bytes: Array(body)))
        }
        return letters
    }
}
