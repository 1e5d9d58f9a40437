/// Reads a model file in Universal Binary JSON, draft 12, as XGBoost writes it: big-endian, typed arrays.
///
/// A size that the file announces is compared with the bytes that are left before anything is allocated for it.
struct UBJModelReader {
    private let bytes: [UInt8]
    private var at = 0
    private var depth = 0

    private init(_ bytes: [UInt8], from start: Int) {
        self.bytes = bytes
        at = start
    }

    static func read(_ bytes: [UInt8], from start: Int = 0) throws(ModelError) -> ModelValue {
        var reader = UBJModelReader(bytes, from: start)
        let value = try reader.value(try reader.marker())
        while reader.at < bytes.count, bytes[reader.at] == UInt8(ascii: "N") { reader.at += 1 }
        guard reader.at == bytes.count else { throw reader.broken("bytes after the end of the value") }
        return value
    }

    private func broken(_ what: String) -> ModelError { ModelError(.malformed, "broken UBJ at byte \(at): \(what)") }

    private var left: Int { bytes.count - at }

    /// The next marker; no-ops between values are skipped.
    private mutating func marker() throws(ModelError) -> UInt8 {
        while true {
            guard at < bytes.count else { throw broken("the file ends here") }
            at += 1
            if bytes[at - 1] != UInt8(ascii: "N") { return bytes[at - 1] }
        }
    }

    private mutating func unsigned(_ size: Int) throws(ModelError) -> UInt64 {
        guard left >= size else { throw broken("the file ends inside a number") }
        var number: UInt64 = 0
        for _ in 0..<size {
            number = number << 8 | UInt64(bytes[at])
            at += 1
        }
        return number
    }

    /// A whole number of that marker, or nil where the marker is none of a whole number.
    private mutating func integer(_ marker: UInt8) throws(ModelError) -> Int64? {
        switch marker {
        case UInt8(ascii: "i"): Int64(Int8(truncatingIfNeeded: try unsigned(1)))
        case UInt8(ascii: "U"): Int64(try unsigned(1))
        case UInt8(ascii: "I"): Int64(Int16(truncatingIfNeeded: try unsigned(2)))
        case UInt8(ascii: "l"): Int64(Int32(truncatingIfNeeded: try unsigned(4)))
        case UInt8(ascii: "L"): Int64(bitPattern: try unsigned(8))
        default: nil
        }
    }

    private mutating func length() throws(ModelError) -> Int {
        let marker = try marker()
        guard let number = try integer(marker) else { throw broken("a length expected") }
        guard number >= 0 else { throw broken("a negative length") }
        return Int(number)
    }

    private mutating func text() throws(ModelError) -> String {
        let size = try length()
        guard size <= left else { throw broken("a text of \(size) bytes where \(left) are left") }
        guard let text = String(validating: bytes[at..<at + size], as: UTF8.self) else {
            throw broken("a text that is no UTF-8")
        }
        at += size
        return text
    }

    /// A value of the type that its container announced, else of its own marker.
    private mutating func value(ofType type: UInt8?) throws(ModelError) -> ModelValue {
        guard let type else { return try value(try marker()) }
        return try value(type)
    }

    private mutating func value(_ marker: UInt8) throws(ModelError) -> ModelValue {
        if let number = try integer(marker) { return .integer(number) }
        switch marker {
        case UInt8(ascii: "Z"): return .null
        case UInt8(ascii: "T"): return .bool(true)
        case UInt8(ascii: "F"): return .bool(false)
        case UInt8(ascii: "d"): return .float(Float(bitPattern: UInt32(try unsigned(4))))
        case UInt8(ascii: "D"): return .float(Float(Double(bitPattern: try unsigned(8))))
        case UInt8(ascii: "C"): return .string(String(Unicode.Scalar(UInt8(try unsigned(1) & 0x7f))))
        case UInt8(ascii: "S"): return .string(try text())
        case UInt8(ascii: "H"):
            let digits = try text()
            guard let number = Decimal.float(digits) else { throw broken("a long number that can't be read") }
            return Int64(digits).map { .integer($0) } ?? .float(number)
        case UInt8(ascii: "["): return try array()
        case UInt8(ascii: "{"): return try object()
        default: throw broken("the unknown marker \(marker)")
        }
    }

    /// Type and count in front of a container's contents.
    private mutating func header() throws(ModelError) -> (type: UInt8?, count: Int?) {
        var type: UInt8?
        guard left > 0 else { throw broken("the file ends here") }
        if bytes[at] == UInt8(ascii: "$") {
            at += 1
            type = try marker()
            guard left > 0, bytes[at] == UInt8(ascii: "#") else { throw broken("a type without a count") }
        }
        guard bytes[at] == UInt8(ascii: "#") else { return (nil, nil) }
        at += 1
        let count = try length()
        // Every element has a byte at least, but those whose type says it all: none of these has a use here.
        guard count <= left else { throw broken("\(count) elements where \(left) bytes are left") }
        return (type, count)
    }

    private mutating func enter() throws(ModelError) {
        depth += 1
        guard depth <= JSONModelReader.depthMax else {
            throw broken("nested deeper than \(JSONModelReader.depthMax)")
        }
    }

    private mutating func array() throws(ModelError) -> ModelValue {
        try enter()
        defer { depth -= 1 }
        let (type, count) = try header()
        if let type, let count, let numbers = try numbers(type, count) { return numbers }
        var values = FlatArray()
        if let count {
            for _ in 0..<count { values.append(try value(ofType: type)) }
            return values.value
        }
        while true {
            let next = try marker()
            if next == UInt8(ascii: "]") { return values.value }
            values.append(try value(next))
        }
    }

    /// A typed array of numbers, or nil where the type is another.
    private mutating func numbers(_ type: UInt8, _ count: Int) throws(ModelError) -> ModelValue? {
        let size: Int
        switch type {
        case UInt8(ascii: "i"), UInt8(ascii: "U"): size = 1
        case UInt8(ascii: "I"): size = 2
        case UInt8(ascii: "l"), UInt8(ascii: "d"): size = 4
        case UInt8(ascii: "L"), UInt8(ascii: "D"): size = 8
        default: return nil
        }
        guard count <= left / size else { throw broken("\(count) numbers where \(left) bytes are left") }
        if type == UInt8(ascii: "d") || type == UInt8(ascii: "D") {
            var floats: [Float] = []
            floats.reserveCapacity(count)
            for _ in 0..<count {
                let raw = try unsigned(size)
                floats.append(size == 4 ? Float(bitPattern: UInt32(raw)) : Float(Double(bitPattern: raw)))
            }
            return .floats(floats)
        }
        var integers: [Int64] = []
        integers.reserveCapacity(count)
        for _ in 0..<count { integers.append(try integer(type) ?? 0) }
        return .integers(integers)
    }

    private mutating func object() throws(ModelError) -> ModelValue {
        try enter()
        defer { depth -= 1 }
        let (type, count) = try header()
        var members: [(key: String, value: ModelValue)] = []
        if let count {
            for _ in 0..<count {
                let key = try text()
                members.append((key, try value(ofType: type)))
            }
            return .object(members)
        }
        while true {
            while left > 0, bytes[at] == UInt8(ascii: "N") { at += 1 }
            guard left > 0 else { throw broken("the file ends here") }
            if bytes[at] == UInt8(ascii: "}") {
                at += 1
                return .object(members)
            }
            let key = try text()
            members.append((key, try value(try marker())))
        }
    }
}
