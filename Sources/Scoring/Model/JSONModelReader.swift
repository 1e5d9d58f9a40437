/// Reads a model file in JSON.
///
/// The grammar is RFC 8259, and what XGBoost writes beyond it: bare `NaN`, `Infinity` and `-Infinity`. Nesting is
/// bounded, sizes are those of the text itself, so memory grows with the file and no faster than its contents.
struct JSONModelReader {
    /// Containers inside containers; XGBoost needs seven.
    static let depthMax = 64

    private let bytes: [UInt8]
    private var at = 0
    private var depth = 0

    init(_ bytes: [UInt8], from start: Int = 0) {
        self.bytes = bytes
        at = start
    }

    static func read(_ bytes: [UInt8], from start: Int = 0) throws(ModelError) -> ModelValue {
        var reader = JSONModelReader(bytes, from: start)
        let value = try reader.value()
        reader.skipBlanks()
        guard reader.at == bytes.count else { throw reader.broken("text after the end of the value") }
        return value
    }

    private func broken(_ what: String) -> ModelError {
        var line = 1
        for byte in bytes.prefix(at) where byte == 10 { line += 1 }
        return ModelError(.malformed, "broken JSON at byte \(at), line \(line): \(what)")
    }

    private mutating func skipBlanks() {
        while at < bytes.count {
            switch bytes[at] {
            case 32, 9, 10, 13: at += 1
            default: return
            }
        }
    }

    private func peek() throws(ModelError) -> UInt8 {
        guard at < bytes.count else { throw broken("the file ends here") }
        return bytes[at]
    }

    private mutating func value() throws(ModelError) -> ModelValue {
        skipBlanks()
        switch try peek() {
        case UInt8(ascii: "{"): return try object()
        case UInt8(ascii: "["): return try array()
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"):
            try word("true")
            return .bool(true)
        case UInt8(ascii: "f"):
            try word("false")
            return .bool(false)
        case UInt8(ascii: "n"):
            try word("null")
            return .null
        default: return try number()
        }
    }

    private mutating func word(_ text: StaticString) throws(ModelError) {
        let wanted = String(describing: text).utf8
        guard bytes.count - at >= wanted.count, bytes[at..<at + wanted.count].elementsEqual(wanted) else {
            throw broken("`\(text)` expected")
        }
        at += wanted.count
    }

    private mutating func enter() throws(ModelError) {
        depth += 1
        at += 1
        guard depth <= Self.depthMax else { throw broken("nested deeper than \(Self.depthMax)") }
    }

    private mutating func object() throws(ModelError) -> ModelValue {
        try enter()
        var members: [(key: String, value: ModelValue)] = []
        skipBlanks()
        if try peek() == UInt8(ascii: "}") {
            at += 1
            depth -= 1
            return .object(members)
        }
        while true {
            skipBlanks()
            guard try peek() == UInt8(ascii: "\"") else { throw broken("a name in quotes expected") }
            let key = try string()
            skipBlanks()
            guard try peek() == UInt8(ascii: ":") else { throw broken("`:` expected") }
            at += 1
            members.append((key, try value()))
            skipBlanks()
            let next = try peek()
            at += 1
            if next == UInt8(ascii: "}") { break }
            guard next == UInt8(ascii: ",") else { throw broken("`,` or `}` expected") }
        }
        depth -= 1
        return .object(members)
    }

    private mutating func array() throws(ModelError) -> ModelValue {
        try enter()
        var values = FlatArray()
        skipBlanks()
        if try peek() == UInt8(ascii: "]") {
            at += 1
            depth -= 1
            return .array([])
        }
        while true {
            values.append(try value())
            skipBlanks()
            let next = try peek()
            at += 1
            if next == UInt8(ascii: "]") { break }
            guard next == UInt8(ascii: ",") else { throw broken("`,` or `]` expected") }
        }
        depth -= 1
        return values.value
    }

    private mutating func number() throws(ModelError) -> ModelValue {
        let start = at
        var negative = false
        if bytes[at] == UInt8(ascii: "-") {
            negative = true
            at += 1
        }
        switch try peek() {
        case UInt8(ascii: "N") where !negative:
            try word("NaN")
            return .float(.nan)
        case UInt8(ascii: "I"):
            try word("Infinity")
            return .float(negative ? -.infinity : .infinity)
        default: break
        }
        var whole: Int64? = 0
        let digits = at
        while at < bytes.count, Decimal.isDigit(bytes[at]) {
            whole = whole.flatMap { number in
                let (product, over) = number.multipliedReportingOverflow(by: 10)
                let (sum, again) = product.addingReportingOverflow(Int64(bytes[at] - 48))
                return over || again ? nil : sum
            }
            at += 1
        }
        guard at > digits else { throw broken("a value expected") }
        guard at - digits == 1 || bytes[digits] != UInt8(ascii: "0") else { throw broken("a number with a leading 0") }
        let isFloat = at < bytes.count && (bytes[at] == UInt8(ascii: ".") || bytes[at] | 32 == UInt8(ascii: "e"))
        if !isFloat, let whole, !(negative && whole == 0) { return .integer(negative ? -whole : whole) }
        while at < bytes.count, isNumberByte(bytes[at]) { at += 1 }
        let parsed = unsafe bytes.withUnsafeBufferPointer { text in
            unsafe Decimal.float(UnsafeBufferPointer(rebasing: text[start..<at]))
        }
        guard let parsed else {
            throw broken("a number that can't be read")
        }
        return .float(parsed)
    }

    private func isNumberByte(_ byte: UInt8) -> Bool {
        Decimal.isDigit(byte) || byte == UInt8(ascii: ".") || byte | 32 == UInt8(ascii: "e")
            || byte == UInt8(ascii: "-") || byte == UInt8(ascii: "+")
    }

    private mutating func string() throws(ModelError) -> String {
        at += 1
        let start = at
        var plain = true
        while true {
            let byte = try peek()
            if byte == UInt8(ascii: "\"") { break }
            guard byte >= 32 else { throw broken("a control character in a string") }
            if byte == UInt8(ascii: "\\") {
                plain = false
                at += 1
                _ = try peek()
            }
            at += 1
        }
        let raw = bytes[start..<at]
        defer { at += 1 }
        var text = Array(raw)
        if !plain { text = try unescaped(raw) }
        guard let string = String(validating: text, as: UTF8.self) else { throw broken("a string that is no UTF-8") }
        return string
    }

    private func unescaped(_ raw: ArraySlice<UInt8>) throws(ModelError) -> [UInt8] {
        var text: [UInt8] = []
        var place = raw.startIndex
        while place < raw.endIndex {
            let byte = raw[place]
            place += 1
            guard byte == UInt8(ascii: "\\") else {
                text.append(byte)
                continue
            }
            let escape = raw[place]
            place += 1
            switch escape {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(escape)
            case UInt8(ascii: "b"): text.append(8)
            case UInt8(ascii: "f"): text.append(12)
            case UInt8(ascii: "n"): text.append(10)
            case UInt8(ascii: "r"): text.append(13)
            case UInt8(ascii: "t"): text.append(9)
            case UInt8(ascii: "u"):
                guard var scalar = hex(raw, place) else { throw broken("a broken \\u escape") }
                place += 4
                if scalar >> 10 == 0x36, place + 6 <= raw.endIndex, raw[place] == UInt8(ascii: "\\"),
                    raw[place + 1] == UInt8(ascii: "u"), let low = hex(raw, place + 2), low >> 10 == 0x37
                {
                    scalar = 0x10000 + (scalar & 0x3ff) << 10 + low & 0x3ff
                    place += 6
                }
                guard let unicode = Unicode.Scalar(scalar) else { throw broken("a lone surrogate") }
                text.append(contentsOf: String(unicode).utf8)
            default: throw broken("an unknown escape")
            }
        }
        return text
    }

    private func hex(_ raw: ArraySlice<UInt8>, _ place: Int) -> UInt32? {
        guard place + 4 <= raw.endIndex else { return nil }
        var number: UInt32 = 0
        for byte in raw[place..<place + 4] {
            switch byte {
            case 48...57: number = number << 4 | UInt32(byte - 48)
            case 65...70: number = number << 4 | UInt32(byte - 55)
            case 97...102: number = number << 4 | UInt32(byte - 87)
            default: return nil
            }
        }
        return number
    }
}
