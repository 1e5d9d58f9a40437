import Scoring

/// The CSV of `tideline model score`: a header, then a row of numbers a line, in RFC 4180's quotes where need be.
enum RowFile {
    /// Names of the columns; a byte order mark before them is skipped.
    static func header(_ line: [UInt8]) throws(ModelError) -> [String] {
        let text = line.starts(with: [0xef, 0xbb, 0xbf]) ? Array(line.dropFirst(3)) : line
        var names: [String] = []
        for field in try fields(text, number: 1) {
            guard let name = String(validating: field, as: UTF8.self) else {
                throw ModelError(.features, "line 1: a column name that is no UTF-8")
            }
            names.append(name)
        }
        return names
    }

    /// Writes a line's numbers at `offset` of `rows`, each in the place that `columns` gives it.
    static func parse(
        _ line: [UInt8], number: Int, names: [String], columns: [Int], into rows: inout [Float], _ offset: Int
    ) throws(ModelError) {
        var column = 0
        var start = 0
        if line.contains(UInt8(ascii: "\"")) {
            for field in try fields(line, number: number) {
                try place(field[...], number, names, columns, column, &rows, offset)
                column += 1
            }
        } else {
            while true {
                let end = line[start...].firstIndex(of: UInt8(ascii: ",")) ?? line.count
                try place(line[start..<end], number, names, columns, column, &rows, offset)
                column += 1
                if end == line.count { break }
                start = end + 1
            }
        }
        guard column == names.count else {
            throw ModelError(.features, "line \(number): \(column) cells where the header has \(names.count)")
        }
    }

    private static func place(
        _ cell: ArraySlice<UInt8>, _ number: Int, _ names: [String], _ columns: [Int], _ column: Int,
        _ rows: inout [Float], _ offset: Int
    ) throws(ModelError) {
        guard column < names.count else {
            throw ModelError(.features, "line \(number): more cells than the header's \(names.count)")
        }
        guard !columns.isEmpty else { return }
        var trimmed = cell
        while let byte = trimmed.first, byte == 32 || byte == 9 { trimmed = trimmed.dropFirst() }
        while let byte = trimmed.last, byte == 32 || byte == 9 { trimmed = trimmed.dropLast() }
        if trimmed.isEmpty {
            rows[offset + columns[column]] = .nan
            return
        }
        let parsed = unsafe trimmed.withUnsafeBufferPointer { text in unsafe Decimal.float(text) }
        guard let parsed else {
            let shown = String(decoding: trimmed.prefix(40), as: UTF8.self)
            throw ModelError(
                .features, "line \(number), column `\(names[column])`: `\(shown)` is no number",
                remedy: "leave the cell empty where the value is missing")
        }
        guard !parsed.isInfinite else {
            throw ModelError(
                .features, "line \(number), column `\(names[column])`: a number beyond the range of Float32")
        }
        rows[offset + columns[column]] = parsed
    }

    /// Fields of a line, out of their quotes.
    private static func fields(_ line: [UInt8], number: Int) throws(ModelError) -> [[UInt8]] {
        var fields: [[UInt8]] = [[]]
        var quoted = false
        var at = 0
        while at < line.count {
            let byte = line[at]
            at += 1
            if byte == UInt8(ascii: "\"") {
                if quoted, at < line.count, line[at] == byte {
                    fields[fields.count - 1].append(byte)
                    at += 1
                } else {
                    quoted.toggle()
                }
            } else if byte == UInt8(ascii: ","), !quoted {
                fields.append([])
            } else {
                fields[fields.count - 1].append(byte)
            }
        }
        guard !quoted else { throw ModelError(.features, "line \(number): a quote that is not closed") }
        return fields
    }
}
