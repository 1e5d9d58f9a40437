import Changes
import Features

/// Events out of a file's rows: NDJSON lines as they stand, CSV records as JSON objects.
///
/// In a CSV record a number stands as written, other texts in quotes; a quoted cell is a text; an empty cell that is not
/// quoted is absent. What `Options` adds comes first in the object.
final class ReplaySource {
    struct Options {
        /// The field that gets the row's number, with `idPrefix` before it.
        var idField: String?
        var idPrefix = "row-"
        /// Fields with the same value in each row.
        var constants: [(field: String, value: String)] = []
        /// The CSV column that becomes the pipeline's time field.
        var timeColumn: String?
        /// Added to the time field's numbers; they become RFC 3339.
        var timeBase: Int64?
        /// The pipeline's time field and the microseconds of its unit.
        var timeField = ""
        var timeUnit = 1_000_000.0
        var separator = UInt8(ascii: ",")
        var format: Format?
    }

    enum Format: String { case csv, ndjson }

    enum Row: Equatable {
        case event
        case refused(String)
        case end
    }

    let bytes: InputBytes
    let format: Format
    /// Rows read, refused ones included: the first is 1.
    private(set) var row = 0
    /// The event that was read last, without a line end.
    private(set) var event: [UInt8] = []
    private let options: Options
    private let lines: InputLines
    private let csv: CSVReader
    private var columns: [Column] = []

    private struct Column {
        /// `"name":`
        var key: [UInt8]
        var isTime: Bool
    }

    init(_ bytes: InputBytes, options: Options) throws {
        self.bytes = bytes
        self.options = options
        format = try options.format ?? (bytes.peek() == UInt8(ascii: "{") ? .ndjson : .csv)
        lines = InputLines(bytes)
        csv = CSVReader(bytes, separator: options.separator)
        if format == .csv {
            try readHeader()
        } else if options.timeColumn != nil || options.timeBase != nil {
            throw UsageError("--time-column and --time-base are for CSV; an NDJSON file's times are read as they stand")
        }
    }

    private func readHeader() throws {
        guard try bytes.peek() != nil else { throw InputError("\(bytes.path) is empty") }
        guard try csv.next() == .fields else {
            throw InputError("\(bytes.path) has no header line; name its columns there")
        }
        var names: [String] = []
        for index in csv.fields.indices {
            guard let name = String(validating: csv[index], as: UTF8.self), !name.isEmpty, !names.contains(name) else {
                throw InputError("\(bytes.path): column \(index + 1) has no name of its own in the header; give it one")
            }
            names.append(name)
        }
        if let wanted = options.timeColumn, !names.contains(wanted) {
            throw UsageError(
                "--time-column: there is no column `\(wanted)`; there are \(names.prefix(12).joined(separator: ", "))")
        }
        columns = names.map { name in
            let isTime = name == options.timeColumn || (options.timeColumn == nil && name == options.timeField)
            var key: [UInt8] = []
            JSONBytes.append((isTime ? options.timeField : name).utf8, to: &key)
            return Column(key: key + [UInt8(ascii: ":")], isTime: isTime)
        }
        // The column that gives the time takes the place of one of the same name.
        if options.timeColumn != nil {
            for index in names.indices where names[index] == options.timeField && !columns[index].isTime {
                columns[index].key = []
            }
        }
    }

    /// Reads the next row into `event`.
    func next() throws -> Row {
        event.removeAll(keepingCapacity: true)
        return format == .csv ? try nextRecord() : try nextLine()
    }

    private func beginObject() {
        event.append(UInt8(ascii: "{"))
        if let field = options.idField {
            member(field)
            JSONBytes.append((options.idPrefix + String(row)).utf8, to: &event)
        }
        for (field, value) in options.constants {
            member(field)
            JSONBytes.append(value: Array(value.utf8)[...], to: &event)
        }
    }

    private func member(_ name: String) {
        comma()
        JSONBytes.append(name.utf8, to: &event)
        event.append(UInt8(ascii: ":"))
    }

    private func comma() { if event.count > 1 { event.append(UInt8(ascii: ",")) } }

    private func nextLine() throws -> Row {
        while true {
            let found = try unsafe lines.next { line -> Bool in
                guard let first = unsafe line.firstIndex(where: { $0 != 32 && $0 != 9 }) else { return false }
                row += 1
                beginObject()
                let isObject = unsafe line[first] == UInt8(ascii: "{")
                if event.count == 1 || !isObject {
                    event.removeAll(keepingCapacity: true)
                    unsafe event.append(contentsOf: line)
                    return true
                }
                let rest = unsafe line[(first + 1)...]
                if unsafe rest.first(where: { $0 != 32 && $0 != 9 }) != UInt8(ascii: "}") { comma() }
                unsafe event.append(contentsOf: rest)
                return true
            }
            guard let found else { return .end }
            if found { return .event }
        }
    }

    private func nextRecord() throws -> Row {
        switch try csv.next() {
        case .end: return .end
        case .broken(let line, let reason):
            row += 1
            return .refused("line \(line): \(reason)")
        case .fields: break
        }
        row += 1
        guard csv.fields.count == columns.count else {
            return .refused("line \(csv.line): \(csv.fields.count) cells where the header has \(columns.count)")
        }
        beginObject()
        for (index, column) in columns.enumerated() where !column.key.isEmpty {
            let cell = csv[index]
            if cell.isEmpty, !csv.fields[index].quoted { continue }
            comma()
            event.append(contentsOf: column.key)
            if column.isTime, let base = options.timeBase {
                guard let number = Double(String(decoding: cell, as: UTF8.self)),
                    (number * options.timeUnit).magnitude < 1e18
                else {
                    return .refused("line \(csv.line): the time is no number that --time-base can be added to")
                }
                let time = base + Int64((number * options.timeUnit).rounded())
                JSONBytes.append(Timestamp.text(time).utf8, to: &event)
            } else if csv.fields[index].quoted {
                JSONBytes.append(cell, to: &event)
            } else {
                JSONBytes.append(value: cell, to: &event)
            }
        }
        event.append(UInt8(ascii: "}"))
        return .event
    }
}
