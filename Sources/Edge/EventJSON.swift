import Changes
import Features
import HTTP

/// An event as the API shows it.
enum EventJSON {
    static func write(
        id: UnsafeRawBufferPointer, _ record: EventRecord, pipeline: Pipeline, details: Bool, to json: inout JSONWriter
    ) {
        json.beginObject()
        json.key("id")
        unsafe json.value(utf8: id)
        json.member("time", time: record.eventTime)
        json.member("score", record.score)
        json.member("flagged", record.flags.contains(.flagged))
        if record.flags.contains(.late) { json.member("late", true) }
        if record.flags.contains(.fromFuture) { json.member("fromFuture", true) }
        if record.flags.contains(.degraded) { json.member("degraded", true) }
        json.key("reasons")
        json.beginArray()
        for index in 0..<record.reasonCount {
            let reason = record.reason(index)
            json.beginObject()
            json.member("feature", name(Int(reason.feature), pipeline))
            if Int(reason.feature) < record.featureCount {
                json.member("value", record.feature(Int(reason.feature)))
            }
            json.member("contribution", reason.contribution)
            json.endObject()
        }
        json.endArray()
        writeFields(record, pipeline, to: &json)
        if details { writeDetails(record, pipeline, to: &json) }
        json.endObject()
    }

    static func writeFields(_ record: EventRecord, _ pipeline: Pipeline, to json: inout JSONWriter) {
        json.key("fields")
        json.beginObject()
        unsafe KeptFields.forEachStored(in: record.fields, of: pipeline) { column, value in
            json.key(pipeline.columns[column].name)
            switch value {
            case .missing: json.null()
            case .text(let text): unsafe json.value(utf8: text)
            case .number(let number): json.value(number)
            }
        }
        json.endObject()
    }

    private static func writeDetails(_ record: EventRecord, _ pipeline: Pipeline, to json: inout JSONWriter) {
        json.member("ingestTime", time: record.ingestTime)
        json.member("inputOffset", record.inputOffset)
        json.member("model", String(record.model, radix: 16))
        json.key("features")
        json.beginObject()
        for index in 0..<record.featureCount {
            json.key(name(index, pipeline))
            json.value(record.feature(index))
        }
        json.endObject()
    }

    /// A record of another schema may have features that this pipeline does not name.
    private static func name(_ index: Int, _ pipeline: Pipeline) -> String {
        index < pipeline.featureNames.count ? pipeline.featureNames[index] : "f\(index)"
    }
}

extension JSONWriter {
    /// A time, in microseconds since 1970, as RFC 3339.
    mutating func member(_ name: StaticString, time: Int64) {
        key(name)
        unsafe Timestamp.withText(time) { unsafe value(utf8: $0) }
    }
}
