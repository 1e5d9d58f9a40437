/// Records of a CSV file, by RFC 4180: quotes, doubled quotes, separators and line ends within quotes, CR LF or LF.
///
/// A quote within a field that does not begin with one stands for itself. Blank lines are skipped. A record that breaks
/// the rules is told with its line, and reading goes on at the next line.
final class CSVReader {
    enum Record: Equatable {
        case fields
        case broken(line: Int, reason: String)
        case end
    }

    struct Field {
        var range: Range<Int>
        var quoted: Bool
    }

    let bytes: InputBytes
    /// The record's fields, out of their quotes: ranges of `text`.
    private(set) var fields: [Field] = []
    private(set) var text: [UInt8] = []
    /// The line in which the record begins, from 1.
    private(set) var line = 1
    private var nextLine = 1
    private let separator: UInt8

    init(_ bytes: InputBytes, separator: UInt8 = UInt8(ascii: ",")) {
        self.bytes = bytes
        self.separator = separator
    }

    /// A field's bytes.
    subscript(index: Int) -> ArraySlice<UInt8> { text[fields[index].range] }

    /// Reads the next record into `fields`.
    func next() throws -> Record {
        while true {
            text.removeAll(keepingCapacity: true)
            fields.removeAll(keepingCapacity: true)
            line = nextLine
            var length = 0
            guard try has(&length) else { return .end }
            if let broken = try read(&length) {
                bytes.start += length
                return broken
            }
            bytes.start += length
            let isBlank = fields.count == 1 && fields[0].range.isEmpty && !fields[0].quoted
            if !isBlank { return .fields }
        }
    }

    /// Whether there is a byte at `length` after the record's beginning.
    private func has(_ length: inout Int) throws -> Bool {
        while bytes.start + length >= bytes.end { if try !bytes.fill() { return false } }
        return true
    }

    private func read(_ length: inout Int) throws -> Record? {
        while true {
            let from = text.count
            var quoted = false
            if try has(&length), bytes.buffer[bytes.start + length] == UInt8(ascii: "\"") {
                quoted = true
                length += 1
                guard try readQuoted(&length) else {
                    return .broken(line: line, reason: "a quote is not closed before the end of the file")
                }
            }
            let afterQuote = text.count
            let isLast = try readPlain(&length)
            if quoted, text.count > afterQuote {
                return try skipLine(isLast, &length, "bytes follow a closing quote; double a quote within quotes")
            }
            fields.append(Field(range: from..<text.count, quoted: quoted))
            if isLast { return nil }
        }
    }

    /// Reads up to the closing quote and over it; says whether there was one.
    private func readQuoted(_ length: inout Int) throws -> Bool {
        while try has(&length) {
            let byte = bytes.buffer[bytes.start + length]
            length += 1
            if byte == UInt8(ascii: "\"") {
                guard try has(&length), bytes.buffer[bytes.start + length] == byte else { return true }
                length += 1
            } else if byte == 10 {
                nextLine += 1
            }
            text.append(byte)
        }
        return false
    }

    /// Reads up to a separator or the record's end and over it; says whether it was the end.
    private func readPlain(_ length: inout Int) throws -> Bool {
        let from = text.count
        while try has(&length) {
            let begin = bytes.start + length
            var at = begin
            while at < bytes.end, bytes.buffer[at] != separator, bytes.buffer[at] != 10 { at += 1 }
            text.append(contentsOf: bytes.buffer[begin..<at])
            length += at - begin
            if at == bytes.end { continue }
            length += 1
            if bytes.buffer[at] == separator { return false }
            nextLine += 1
            if text.count > from, text.last == 13 { text.removeLast() }
            return true
        }
        return true
    }

    private func skipLine(_ isDone: Bool, _ length: inout Int, _ reason: String) throws -> Record {
        let begun = line
        var isDone = isDone
        while !isDone { isDone = try readPlain(&length) }
        return .broken(line: begun, reason: reason)
    }
}
