internal import CForest

/// Decimal text to Float32 with one correct rounding, ties to even.
package enum Decimal {
    /// Reads a whole text as one number: `-1.5e3`, `inf`, `nan` in any case, no blanks around it.
    ///
    /// Returns nil where it is none. A number beyond the range becomes infinite, one below it a zero.
    package static func float(_ text: UnsafeBufferPointer<UInt8>) -> Float? {
        guard let first = unsafe text.first else { return nil }
        var at = 0
        let negative = first == UInt8(ascii: "-")
        if negative || first == UInt8(ascii: "+") { at = 1 }
        guard at < text.count else { return nil }
        let head = unsafe text[at]
        if !isDigit(head), head != UInt8(ascii: ".") {
            return unsafe word(UnsafeBufferPointer(rebasing: text[at...]), negative: negative)
        }
        let start = at
        var digits: UInt64 = 0
        var exponent = 0
        var exact = true
        var seen = false
        var point = false
        while at < text.count {
            let byte = unsafe text[at]
            if byte == UInt8(ascii: "."), !point {
                point = true
            } else if isDigit(byte) {
                seen = true
                if digits < 1_000_000_000_000_000_000 {
                    digits = digits * 10 + UInt64(byte - 48)
                    if point { exponent -= 1 }
                } else {
                    if byte != UInt8(ascii: "0") { exact = false }
                    if !point { exponent += 1 }
                }
            } else {
                break
            }
            at += 1
        }
        guard seen else { return nil }
        if at < text.count {
            guard let written = unsafe writtenExponent(text, at) else { return nil }
            exponent += written
        }
        let clamped = Int32(max(-100_000, min(100_000, exponent)))
        let size = min(text.count - start, 1_100)
        if exact, digits < 1 << 53, clamped >= -22, clamped <= 22, text.count - start < 1_000 {
            let magnitude = unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: size + 1) { copy in
                unsafe terminate(text, from: start, size: size, into: copy)
                return unsafe cforest_decimal(digits, clamped, 1, copy.baseAddress)
            }
            return negative ? -magnitude : magnitude
        }
        // Rare: long or extreme numbers, whole text to the C library, which rounds once whatever the length.
        let length = text.count - start
        let magnitude = unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: length + 1) { copy in
            unsafe terminate(text, from: start, size: length, into: copy)
            return unsafe cforest_decimal(digits, clamped, 0, copy.baseAddress)
        }
        return negative ? -magnitude : magnitude
    }

    /// The same for a Swift string.
    package static func float(_ text: String) -> Float? {
        var copy = text
        return copy.withUTF8 { bytes in unsafe float(bytes) }
    }

    static func isDigit(_ byte: UInt8) -> Bool { byte &- 48 < 10 }

    private static func terminate(
        _ text: UnsafeBufferPointer<UInt8>, from start: Int, size: Int, into copy: UnsafeMutableBufferPointer<CChar>
    ) {
        for place in 0..<size { unsafe copy[place] = unsafe CChar(bitPattern: text[start + place]) }
        unsafe copy[size] = 0
    }

    /// `e-12` up to the end of the text.
    private static func writtenExponent(_ text: UnsafeBufferPointer<UInt8>, _ from: Int) -> Int? {
        var at = from
        guard unsafe text[at] | 32 == UInt8(ascii: "e") else { return nil }
        at += 1
        guard at < text.count else { return nil }
        let sign = unsafe text[at]
        if sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+") { at += 1 }
        guard at < text.count else { return nil }
        var number = 0
        while at < text.count {
            let byte = unsafe text[at]
            guard isDigit(byte) else { return nil }
            if number < 1_000_000 { number = number * 10 + Int(byte - 48) }
            at += 1
        }
        return sign == UInt8(ascii: "-") ? -number : number
    }

    private static func word(_ text: UnsafeBufferPointer<UInt8>, negative: Bool) -> Float? {
        let lower = unsafe String(decoding: text.prefix(12).map { $0 | 32 }, as: UTF8.self)
        switch lower {
        case "inf", "infinity": return negative ? -.infinity : .infinity
        case "nan": return .nan
        default: return nil
        }
    }
}
