import Changes
import Features
import Service

/// Events out of a file's rows: NDJSON lines as they stand, CSV records and vectors as JSON objects.
///
/// A vector becomes an event of now, with the row's number as its id, and as its primary entity where none is set.
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
        /// Where the pipeline reads id, primary entity and vector.
        var idPath = ""
        var entityPath = ""
        var embedding: (path: String, dimension: Int)?
        var format: Format?
    }

    enum Format: String { case csv, ndjson, npy, fvecs }

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
    private var vectors: VectorFile?
    private var columns: [Column] = []

    private struct Column {
        /// `"name":`
        var key: [UInt8]
        var isTime: Bool
    }

    init(_ bytes: InputBytes, options: Options) throws {
        self.bytes = bytes
        self.options = options
        format = try options.format ?? Self.format(of: bytes)
        lines = InputLines(bytes)
        csv = CSVReader(bytes, separator: options.separator)
        if format == .npy || format == .fvecs {
            try checkVectors(options)
            vectors = try VectorFile(bytes, format == .npy ? .npy : .fvecs)
        } else if format == .csv {
            try readHeader()
        } else if options.timeColumn != nil || options.timeBase != nil {
            throw UsageError("--time-column and --time-base are for CSV; an NDJSON file's times are read as they stand")
        }
    }

    private static func format(of bytes: InputBytes) throws -> Format {
        switch try VectorFile.layout(of: bytes) {
        case .npy: .npy
        case .fvecs: .fvecs
        case nil: try bytes.peek() == UInt8(ascii: "{") ? .ndjson : .csv
        }
    }

    private func checkVectors(_ options: Options) throws {
        guard let embedding = options.embedding else {
            throw UsageError(
                "a file of vectors needs a pipeline that takes them: `embedding: { field: vector, dimension: N }`, such as "
                    + "pipelines/vectors.yaml")
        }
        for path in [options.idPath, options.entityPath, options.timeField, embedding.path] where path.contains(".") {
            throw UsageError(
                "`\(path)` lies within another field, and only fields of the outermost object can be written")
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
        switch format {
        case .csv: return try nextRecord()
        case .ndjson: return try nextLine()
        case .npy, .fvecs: return try nextVector()
        }
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

    private func nextVector() throws -> Row {
        guard let vectors, let embedding = options.embedding, try vectors.next() else { return .end }
        row += 1
        guard vectors.dimension == embedding.dimension else {
            throw UsageError(
                "\(bytes.path) has \(vectors.dimension) numbers a row; set `dimension: \(vectors.dimension)` under the "
                    + "pipeline's `embedding`")
        }
        guard vectors.row.allSatisfy(\.isFinite) else { return .refused("row \(row): a number is not finite") }
        beginObject()
        let name = Array((options.idPrefix + String(row)).utf8)
        let set = options.constants.map(\.field) + [options.idField].compactMap { $0 }
        for field in [options.idPath, options.entityPath] where !set.contains(field) {
            member(field)
            JSONBytes.append(name, to: &event)
        }
        if !set.contains(options.timeField) {
            member(options.timeField)
            JSONBytes.append(Timestamp.text(SystemClock().now).utf8, to: &event)
        }
        member(embedding.path)
        event.append(UInt8(ascii: "["))
        for (index, number) in vectors.row.enumerated() {
            if index > 0 { event.append(UInt8(ascii: ",")) }
            event.append(contentsOf: number.description.utf8)
        }
        event.append(contentsOf: "]}".utf8)
        return .event
    }

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
