/// JSON written by hand, byte by byte.
enum JSONBytes {
    /// Appends a text in quotes. Bytes that are no UTF-8 stay as they are: the reader refuses them by name.
    static func append(_ text: some Sequence<UInt8>, to bytes: inout [UInt8]) {
        bytes.append(UInt8(ascii: "\""))
        for byte in text {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                bytes.append(UInt8(ascii: "\\"))
                bytes.append(byte)
            case 0..<0x20:
                bytes.append(contentsOf: byte < 16 ? "\\u000".utf8 : "\\u001".utf8)
                bytes.append(contentsOf: "0123456789abcdef".utf8.dropFirst(Int(byte & 15)).prefix(1))
            default: bytes.append(byte)
            }
        }
        bytes.append(UInt8(ascii: "\""))
    }

    /// Whether the bytes are a number as JSON writes it: then they may stand without quotes, digit for digit.
    static func isNumber(_ text: ArraySlice<UInt8>) -> Bool {
        var rest = text
        func digits() -> Int {
            var count = 0
            while let byte = rest.first, byte &- 48 < 10 {
                rest.removeFirst()
                count += 1
            }
            return count
        }
        if rest.first == UInt8(ascii: "-") { rest.removeFirst() }
        let leading = rest.first
        let whole = digits()
        guard whole > 0, whole == 1 || leading != UInt8(ascii: "0") else { return false }
        if rest.first == UInt8(ascii: ".") {
            rest.removeFirst()
            guard digits() > 0 else { return false }
        }
        if let byte = rest.first, byte | 32 == UInt8(ascii: "e") {
            rest.removeFirst()
            if let sign = rest.first, sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+") { rest.removeFirst() }
            guard digits() > 0 else { return false }
        }
        return rest.isEmpty
    }

    /// Appends a value from a command line or a cell: a number as written, else a text.
    static func append(value: ArraySlice<UInt8>, to bytes: inout [UInt8]) {
        if isNumber(value) { bytes.append(contentsOf: value) } else { append(value, to: &bytes) }
    }
}
