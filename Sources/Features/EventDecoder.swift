internal import CJSON
import Changes

/// Why an event cannot be scored: the reason that its dead letter carries.
package struct EventRefusal: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }
}

/// Reads one event's columns from its JSON. Not thread-safe: each loop owns one. What it hands out is valid until the
/// next `decode`.
///
/// The treatment of each kind of value is documented with `tl_json_t` and in docs/pipelines.md.
@safe package final class EventDecoder {
    package let pipeline: Pipeline
    private let json: OpaquePointer
    let values: UnsafeMutablePointer<tl_json_value_t>

    /// How many readable bytes after an event spare its copy.
    package static let padding = Int(TL_JSON_PADDING)

    package init(_ pipeline: Pipeline) {
        self.pipeline = pipeline
        unsafe values = .allocate(capacity: pipeline.columns.count)
        unsafe values.initialize(repeating: tl_json_value_t(), count: pipeline.columns.count)
        var paths: [UnsafeMutablePointer<CChar>] = unsafe []
        defer { unsafe paths.forEach { unsafe $0.deallocate() } }
        let columns = unsafe pipeline.columns.map { column in
            let bytes = Array(column.path.utf8CString)
            let path = UnsafeMutablePointer<CChar>.allocate(capacity: bytes.count)
            unsafe path.initialize(from: bytes, count: bytes.count)
            unsafe paths.append(path)
            let (kind, unit) = column.type.c
            return unsafe tl_json_column_t(
                path: path, kind: kind, unit: unit, required: column.required ? 1 : 0,
                dimension: UInt32(column.type.dimension))
        }
        guard let json = unsafe tl_json_create(columns, Int32(columns.count), pipeline.assumeUTC ? 1 : 0) else {
            preconditionFailure("the pipeline's reader lets no paths through that collide")
        }
        unsafe self.json = unsafe json
    }

    deinit {
        unsafe tl_json_destroy(json)
        unsafe values.deallocate()
    }

    /// Decodes one event of `bytes`, of which `readable` bytes may be read. Says why where it cannot.
    package func decode(_ bytes: UnsafeRawBufferPointer, readable: Int) -> EventRefusal? {
        guard bytes.count <= pipeline.limits.eventBytesMax else {
            return EventRefusal("event of \(bytes.count) bytes, over the limit of \(pipeline.limits.eventBytesMax)")
        }
        guard let base = bytes.baseAddress, bytes.count > 0 else { return EventRefusal("empty event") }
        var column: Int32 = -1
        let status = unsafe tl_json_decode(
            json, base.assumingMemoryBound(to: CChar.self), bytes.count, max(readable, bytes.count), values, &column)
        if status != TL_JSON_OK { return EventRefusal(reason(status, column: Int(column))) }
        return checkLengths()
    }

    package var id: UnsafeRawBufferPointer { unsafe text(Pipeline.idColumn) }

    /// Microseconds since 1970.
    package var time: Int64 { unsafe values[Pipeline.timeColumn].time }

    /// Index among the pipeline's tenants; `nil` where the event names none of them.
    package var tenant: Int? {
        guard let column = pipeline.tenantColumn else { return 0 }
        let name = unsafe text(column)
        return pipeline.tenants.firstIndex { tenant in
            var tenant = tenant
            return tenant.withUTF8 { unsafe $0.count == name.count && $0.elementsEqual(name) }
        }
    }

    package func text(_ column: Int) -> UnsafeRawBufferPointer {
        let value = unsafe values[column]
        return unsafe UnsafeRawBufferPointer(start: value.text, count: value.present == 0 ? 0 : Int(value.length))
    }

    /// NaN where missing.
    package func number(_ column: Int) -> Double { unsafe values[column].number }

    /// The vector that the event brings; empty where it brings none.
    package var vector: UnsafeBufferPointer<Float> {
        guard let column = pipeline.embedding.column else { return unsafe .init(start: nil, count: 0) }
        return unsafe text(column).assumingMemoryBound(to: Float.self)
    }

    /// The primary entity's id, which decides the partition.
    package var primaryEntity: UnsafeRawBufferPointer { unsafe text(pipeline.entities[0].column) }

    private func checkLengths() -> EventRefusal? {
        if unsafe id.count == 0 || id.count > Pipeline.idBytesMax {
            return EventRefusal(unsafe "id: \(id.count) bytes, needed are 1 to \(Pipeline.idBytesMax)")
        }
        for (index, entity) in pipeline.entities.enumerated() {
            let length = unsafe text(entity.column).count
            if length > Pipeline.entityBytesMax || (index == 0 && length == 0) {
                return EventRefusal("\(entity.name): \(length) bytes, needed are 1 to \(Pipeline.entityBytesMax)")
            }
        }
        return nil
    }

    private func reason(_ status: tl_json_status_t, column: Int) -> String {
        let what: String
        switch status {
        case TL_JSON_EMPTY: what = "empty event"
        case TL_JSON_NOT_AN_OBJECT: what = "the event is no JSON object"
        case TL_JSON_MISSING: what = "missing"
        case TL_JSON_WRONG_TYPE: what = "wrong type"
        case TL_JSON_REPEATED: what = "the key is repeated"
        case TL_JSON_BAD_TIME: what = "not a time in the unit that the pipeline states"
        case TL_JSON_NO_ZONE: what = "a time without a zone, and the pipeline does not assume UTC"
        case TL_JSON_TRAILING: what = "bytes follow the event's JSON object"
        case TL_JSON_INVALID_UTF8: what = "invalid UTF-8"
        case TL_JSON_NUMBER_RANGE: what = "not a number within range"
        case TL_JSON_TOO_DEEP: what = "nested too deeply"
        case TL_JSON_VECTOR_LENGTH: what = "exactly \(pipeline.embedding.dimension) numbers are needed"
        case TL_JSON_VECTOR_ZERO: what = "a vector of zero length has no neighbours"
        default: what = "malformed JSON"
        }
        guard column >= 0, column < pipeline.columns.count else { return what }
        let name = pipeline.columns[column].name
        switch (status, pipeline.columns[column].type) {
        case (TL_JSON_WRONG_TYPE, .number): return "\(name): a number is needed"
        case (TL_JSON_WRONG_TYPE, .time): return "\(name): a time is needed in the form that the pipeline states"
        case (TL_JSON_WRONG_TYPE, .vector(let dimension)): return "\(name): an array of \(dimension) numbers is needed"
        case (TL_JSON_WRONG_TYPE, .text): return "\(name): a text or a number is needed"
        default: return "\(name): \(what)"
        }
    }
}

/// A reusable buffer behind a reference, so that a class can lend it without exclusivity checks on each byte.
final class ByteWriterBox {
    var writer = ByteWriter(capacity: 4096)
}

extension Pipeline.ColumnType {
    fileprivate var c: (tl_json_kind_t, tl_json_unit_t) {
        switch self {
        case .text: (TL_JSON_TEXT, TL_JSON_RFC3339)
        case .number: (TL_JSON_NUMBER, TL_JSON_RFC3339)
        case .time(.rfc3339): (TL_JSON_TIME, TL_JSON_RFC3339)
        case .time(.s): (TL_JSON_TIME, TL_JSON_SECONDS)
        case .time(.ms): (TL_JSON_TIME, TL_JSON_MILLISECONDS)
        case .time(.us): (TL_JSON_TIME, TL_JSON_MICROSECONDS)
        case .time(.ns): (TL_JSON_TIME, TL_JSON_NANOSECONDS)
        case .vector: (TL_JSON_VECTOR, TL_JSON_RFC3339)
        }
    }

    fileprivate var dimension: Int { if case .vector(let dimension) = self { dimension } else { 0 } }
}
