/// Times as texts: RFC 3339 in UTC with microseconds. Method: Howard Hinnant's civil-from-days.
package enum Timestamp {
    /// Bytes of a time's text.
    package static let byteCount = 27

    /// Appends a time, in microseconds since 1970; one beyond the years 0 to 9999 as the nearest of them.
    package static func write(_ microseconds: Int64, to writer: inout ByteWriter) {
        let target = unsafe writer.extend(by: byteCount)
        unsafe write(microseconds, to: UnsafeMutableRawBufferPointer(start: target, count: byteCount))
    }

    package static func text(_ microseconds: Int64) -> String {
        unsafe String(unsafeUninitializedCapacity: byteCount) { bytes in
            unsafe write(microseconds, to: UnsafeMutableRawBufferPointer(bytes))
            return byteCount
        }
    }

    /// Lends a time's text, without a `String`.
    package static func withText<R>(_ microseconds: Int64, _ use: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try unsafe withUnsafeTemporaryAllocation(byteCount: byteCount, alignment: 8) { bytes in
            unsafe write(microseconds, to: bytes)
            return try unsafe use(UnsafeRawBufferPointer(bytes))
        }
    }

    private static func write(_ microseconds: Int64, to bytes: UnsafeMutableRawBufferPointer) {
        // A time that came over the wire may be anything: what has no four digits' year is shown as the nearest that has.
        let microseconds = min(max(microseconds, -62_167_219_200_000_000), 253_402_300_799_999_999)
        let day: Int64 = 86_400_000_000
        let days = Int(microseconds >= 0 ? microseconds / day : (microseconds - day + 1) / day)
        let rest = Int(microseconds - Int64(days) * day)
        let z = days + 719_468
        let era = (z >= 0 ? z : z - 146_096) / 146_097
        let doe = z - era * 146_097
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100)
        let mp = (5 * doy + 2) / 153
        let month = mp < 10 ? mp + 3 : mp - 9
        let year = yoe + era * 400 + (month <= 2 ? 1 : 0)
        let seconds = rest / 1_000_000
        var at = 0
        func put(_ value: Int, _ digits: Int, then mark: Character) {
            var left = value
            for place in stride(from: at + digits - 1, through: at, by: -1) {
                unsafe bytes[place] = UInt8(ascii: "0") + UInt8(left % 10)
                left /= 10
            }
            unsafe bytes[at + digits] = mark.asciiValue ?? 0
            at += digits + 1
        }
        put(year, 4, then: "-")
        put(month, 2, then: "-")
        put(doy - (153 * mp + 2) / 5 + 1, 2, then: "T")
        put(seconds / 3600, 2, then: ":")
        put(seconds / 60 % 60, 2, then: ":")
        put(seconds % 60, 2, then: ".")
        put(rest % 1_000_000, 6, then: "Z")
    }
}

extension Timestamp {
    /// Reads a time in UTC as RFC 3339 has it, such as `2026-01-31T12:00:00Z` or with a fraction of up to six digits; a
    /// date alone is its midnight. `nil` for anything else.
    package static func parse(_ text: String) -> Int64? {
        let bytes = Array(text.utf8)
        func number(_ at: Int, _ digits: Int) -> Int? {
            guard at + digits <= bytes.count else { return nil }
            var value = 0
            for byte in bytes[at..<at + digits] {
                guard byte >= 0x30, byte <= 0x39 else { return nil }
                value = value * 10 + Int(byte - 0x30)
            }
            return value
        }
        func mark(_ at: Int, _ character: Character) -> Bool { at < bytes.count && bytes[at] == character.asciiValue }
        guard let year = number(0, 4), mark(4, "-"), let month = number(5, 2), mark(7, "-"), let day = number(8, 2),
            (1...12).contains(month), day >= 1, day <= daysIn(month, of: year)
        else { return nil }
        let midnight = Int64(days(year, month, day)) * 86_400_000_000
        if bytes.count == 10 { return midnight }
        guard mark(10, "T"), let hour = number(11, 2), mark(13, ":"), let minute = number(14, 2), mark(16, ":"),
            let second = number(17, 2), hour < 24, minute < 60, second < 60, mark(bytes.count - 1, "Z")
        else { return nil }
        var fraction = 0
        if bytes.count > 20 {
            let digits = bytes.count - 21
            guard mark(19, "."), (1...6).contains(digits), let value = number(20, digits) else { return nil }
            fraction = (digits..<6).reduce(value) { value, _ in value * 10 }
        }
        return midnight + Int64((hour * 3600 + minute * 60 + second) * 1_000_000 + fraction)
    }

    private static func daysIn(_ month: Int, of year: Int) -> Int {
        switch month {
        case 2: year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28
        case 4, 6, 9, 11: 30
        default: 31
        }
    }

    /// Days from 1970-01-01.
    private static func days(_ year: Int, _ month: Int, _ day: Int) -> Int {
        let year = month <= 2 ? year - 1 : year
        let era = (year >= 0 ? year : year - 399) / 400
        let yoe = year - era * 400
        let doy = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
        return era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
    }
}
