/// Writes JSON into a growing array of bytes: no tree, no reflection, no `String` on the way.
///
/// Commas are placed by the writer. Inside an object each value follows a `key(_:)`. Numbers that aren't finite become
/// `null`. Doubles and floats are written with the fewest digits that read back as the same number. The caller keeps
/// the nesting right: `beginObject`/`endObject`, `beginArray`/`endArray`.
///
/// In steady state only a growing buffer allocates, and a `Double` of more than 15 characters (the standard library
/// renders it through a heap string); `number(_:places:)` avoids that one.
package struct JSONWriter {
    package private(set) var bytes: [UInt8]
    private var needsComma = false
    /// Whether the storage came from a connection and goes back to it.
    let recycles: Bool

    package init(reserving capacity: Int = 256) {
        bytes = []
        bytes.reserveCapacity(capacity)
        recycles = false
    }

    init(recycling storage: consuming [UInt8]) {
        bytes = storage
        recycles = true
    }

    // MARK: Structure

    package mutating func beginObject() {
        separate()
        bytes.append(UInt8(ascii: "{"))
        needsComma = false
    }

    package mutating func endObject() {
        bytes.append(UInt8(ascii: "}"))
        needsComma = true
    }

    package mutating func beginArray() {
        separate()
        bytes.append(UInt8(ascii: "["))
        needsComma = false
    }

    package mutating func endArray() {
        bytes.append(UInt8(ascii: "]"))
        needsComma = true
    }

    /// A key known at compile time, which must need no escaping.
    package mutating func key(_ name: StaticString) {
        separate()
        bytes.append(UInt8(ascii: "\""))
        appendRaw(name)
        bytes.append(UInt8(ascii: "\""))
        bytes.append(UInt8(ascii: ":"))
        needsComma = false
    }

    @_disfavoredOverload
    package mutating func key(_ name: String) {
        separate()
        appendQuoted(name)
        bytes.append(UInt8(ascii: ":"))
        needsComma = false
    }

    /// Ends the value that is being written at the top level, so that another may follow: for NDJSON.
    package mutating func endLine() {
        bytes.append(UInt8(ascii: "\n"))
        needsComma = false
    }

    // MARK: Values

    package mutating func null() {
        separate()
        appendRaw("null")
        needsComma = true
    }

    package mutating func value(_ value: Bool) {
        separate()
        appendRaw(value ? "true" : "false")
        needsComma = true
    }

    package mutating func value(_ value: Int) { self.value(Int64(value)) }
    package mutating func value(_ value: Int32) { self.value(Int64(value)) }
    package mutating func value(_ value: UInt32) { self.value(UInt64(value)) }

    package mutating func value(_ value: Int64) {
        separate()
        if value < 0 { bytes.append(UInt8(ascii: "-")) }
        appendDigits(value.magnitude)
        needsComma = true
    }

    package mutating func value(_ value: UInt64) {
        separate()
        appendDigits(value)
        needsComma = true
    }

    package mutating func value(_ value: Double) {
        guard value.isFinite else { return null() }
        separate()
        if value == value.rounded(.towardZero), value.magnitude < 1e15, !(value == 0 && value.sign == .minus) {
            if value < 0 { bytes.append(UInt8(ascii: "-")) }
            appendDigits(UInt64(value.magnitude))
            appendRaw(".0")
        } else {
            append(text: value.description)
        }
        needsComma = true
    }

    package mutating func value(_ value: Float) {
        guard value.isFinite else { return null() }
        separate()
        append(text: value.description)
        needsComma = true
    }

    /// A number rounded to a fixed count of decimal places (at most 9), half away from zero; allocates nothing.
    package mutating func number(_ value: Double, places: Int) {
        precondition((0...9).contains(places), "places must be 0…9")
        var scale = 1.0
        for _ in 0..<places { scale *= 10 }
        let scaled = (value * scale).rounded(.toNearestOrAwayFromZero)
        guard value.isFinite, scaled.magnitude < 9e15 else { return self.value(value) }
        separate()
        let units = UInt64(scaled.magnitude)
        if scaled < 0 { bytes.append(UInt8(ascii: "-")) }
        appendDigits(units / UInt64(scale))
        if places > 0 {
            bytes.append(UInt8(ascii: "."))
            var rest = units % UInt64(scale)
            var divisor = UInt64(scale) / 10
            while divisor > 0 {
                bytes.append(UInt8(ascii: "0") + UInt8(rest / divisor))
                rest %= divisor
                divisor /= 10
            }
        }
        needsComma = true
    }

    /// A string known at compile time, escaped like any other.
    package mutating func value(_ value: StaticString) {
        separate()
        unsafe appendQuoted(UnsafeBufferPointer(start: value.utf8Start, count: value.utf8CodeUnitCount))
        needsComma = true
    }

    @_disfavoredOverload
    package mutating func value(_ value: String) {
        separate()
        appendQuoted(value)
        needsComma = true
    }

    /// A string given as UTF-8; bytes that are no UTF-8 become U+FFFD.
    package mutating func value(utf8: some Sequence<UInt8>) {
        separate()
        let done: Void? = utf8.withContiguousStorageIfAvailable { text in
            if unsafe String.isUTF8(text) {
                unsafe appendQuoted(text)
            } else {
                unsafe appendQuoted(String(decoding: text, as: UTF8.self))
            }
        }
        if done == nil { appendQuoted(String(decoding: Array(utf8), as: UTF8.self)) }
        needsComma = true
    }

    /// A value that is JSON already; it is copied as it stands.
    package mutating func raw(_ json: some Sequence<UInt8>) {
        separate()
        bytes.append(contentsOf: json)
        needsComma = true
    }

    // MARK: Members

    package mutating func member(_ name: StaticString, _ value: Bool) { key(name); self.value(value) }
    package mutating func member(_ name: StaticString, _ value: Int) { key(name); self.value(value) }
    package mutating func member(_ name: StaticString, _ value: Int64) { key(name); self.value(value) }
    package mutating func member(_ name: StaticString, _ value: UInt64) { key(name); self.value(value) }
    package mutating func member(_ name: StaticString, _ value: Double) { key(name); self.value(value) }
    package mutating func member(_ name: StaticString, _ value: Float) { key(name); self.value(value) }
    @_disfavoredOverload
    package mutating func member(_ name: StaticString, _ value: String) { key(name); self.value(value) }
    package mutating func member(_ name: StaticString, _ value: StaticString) { key(name); self.value(value) }

    // MARK: Private

    private mutating func separate() {
        if needsComma { bytes.append(UInt8(ascii: ",")) }
        needsComma = false
    }

    private mutating func appendRaw(_ text: StaticString) {
        unsafe bytes.append(contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    private mutating func append(text: String) {
        var text = text
        text.withUTF8 { unsafe bytes.append(contentsOf: $0) }
    }

    private mutating func appendQuoted(_ text: String) {
        var text = text
        text.withUTF8 { unsafe appendQuoted($0) }
    }

    private mutating func appendQuoted(_ text: UnsafeBufferPointer<UInt8>) {
        bytes.append(UInt8(ascii: "\""))
        var start = 0
        var index = 0
        while index < text.count {
            let byte = unsafe text[index]
            if byte >= 0x20 && byte != UInt8(ascii: "\"") && byte != UInt8(ascii: "\\") {
                index += 1
                continue
            }
            unsafe bytes.append(contentsOf: text[start..<index])
            appendEscape(byte)
            index += 1
            start = index
        }
        unsafe bytes.append(contentsOf: text[start..<text.count])
        bytes.append(UInt8(ascii: "\""))
    }

    private mutating func appendEscape(_ byte: UInt8) {
        bytes.append(UInt8(ascii: "\\"))
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"): bytes.append(byte)
        case 0x0A: bytes.append(UInt8(ascii: "n"))
        case 0x0D: bytes.append(UInt8(ascii: "r"))
        case 0x09: bytes.append(UInt8(ascii: "t"))
        case 0x08: bytes.append(UInt8(ascii: "b"))
        case 0x0C: bytes.append(UInt8(ascii: "f"))
        default:
            appendRaw("u00")
            bytes.append(hexDigit(byte >> 4))
            bytes.append(hexDigit(byte & 15))
        }
    }

    private mutating func appendDigits(_ value: UInt64) {
        bytes.append(decimal: value)
    }
}

func hexDigit(_ nibble: UInt8) -> UInt8 {
    nibble < 10 ? UInt8(ascii: "0") + nibble : UInt8(ascii: "a") + nibble - 10
}

extension [UInt8] {
    /// Appends the decimal digits of a number; allocates nothing but room.
    package mutating func append(decimal value: UInt64) {
        if value < 10 {
            append(UInt8(ascii: "0") + UInt8(value))
            return
        }
        var digits = InlineArray<20, UInt8>(repeating: 0)
        var rest = value
        var first = 20
        while rest > 0 {
            first -= 1
            let (quotient, digit) = rest.quotientAndRemainder(dividingBy: 10)
            digits[first] = UInt8(ascii: "0") + UInt8(digit)
            rest = quotient
        }
        for index in first..<20 { append(digits[index]) }
    }

    mutating func append(text: String) {
        var text = text
        text.withUTF8 { unsafe self.append(contentsOf: $0) }
    }

    mutating func append(text: StaticString) {
        unsafe append(contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }
}

extension String {
    fileprivate static func isUTF8(_ bytes: UnsafeBufferPointer<UInt8>) -> Bool {
        if unsafe bytes.allSatisfy({ $0 < 0x80 }) { return true }
        return unsafe String(validating: bytes, as: UTF8.self) != nil
    }
}
