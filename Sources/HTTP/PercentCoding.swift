/// Percent-decoding, in place, by our own rule: a bad escape and an escaped NUL are refused.
enum PercentCoding {
    /// Decodes `bytes[range]` where it stands and returns the range that holds the result, or nil when it is refused.
    ///
    /// - Parameter plusIsSpace: true in queries, false in paths.
    static func decode(_ bytes: inout [UInt8], _ range: Range<Int>, plusIsSpace: Bool) -> Range<Int>? {
        var write = range.lowerBound
        var read = range.lowerBound
        while read < range.upperBound {
            var byte = bytes[read]
            read += 1
            if byte == UInt8(ascii: "+") && plusIsSpace {
                byte = 0x20
            } else if byte == UInt8(ascii: "%") {
                guard read + 1 < range.upperBound, let high = nibble(bytes[read]), let low = nibble(bytes[read + 1])
                else { return nil }
                byte = high << 4 | low
                read += 2
                if byte == 0 { return nil }
            }
            bytes[write] = byte
            write += 1
        }
        return range.lowerBound..<write
    }

    /// Whether every escape in the text is well formed and none is a NUL.
    static func isWellFormed(_ bytes: borrowing [UInt8], _ range: Range<Int>) -> Bool {
        var index = range.lowerBound
        while index < range.upperBound {
            let byte = bytes[index]
            if byte == 0 || byte <= 0x20 || byte == 0x7F { return false }
            if byte == UInt8(ascii: "%") {
                guard index + 2 < range.upperBound, let high = nibble(bytes[index + 1]),
                    let low = nibble(bytes[index + 2]), high | low != 0
                else { return false }
                index += 2
            }
            index += 1
        }
        return true
    }

    static func nibble(_ byte: UInt8) -> UInt8? {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
        case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
        default: nil
        }
    }

    /// The text with all but unreserved characters escaped, for a path segment or a query value.
    static func encode(_ text: String) -> String {
        var out: [UInt8] = []
        out.reserveCapacity(text.utf8.count)
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
                UInt8(ascii: "~"):
                out.append(byte)
            default:
                out.append(UInt8(ascii: "%"))
                out.append(upper(byte >> 4))
                out.append(upper(byte & 15))
            }
        }
        return String(decoding: out, as: UTF8.self)
    }

    private static func upper(_ nibble: UInt8) -> UInt8 {
        nibble < 10 ? UInt8(ascii: "0") + nibble : UInt8(ascii: "A") + nibble - 10
    }
}

extension String {
    /// The text percent-encoded so that it can stand as one path segment or one query value.
    package var percentEncoded: String { PercentCoding.encode(self) }
}
