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
        json.key("time")
        json.value(Timestamp.text(record.eventTime))
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

    private static func writeFields(_ record: EventRecord, _ pipeline: Pipeline, to json: inout JSONWriter) {
        json.key("fields")
        json.beginObject()
        unsafe KeptFields.forEach(in: record.fields, of: pipeline) { column, value in
            json.key(pipeline.columns[column].name)
            switch value {
            case .missing: json.null()
            case .text(let text): json.value(text)
            case .number(let number): json.value(number)
            }
        }
        json.endObject()
    }

    private static func writeDetails(_ record: EventRecord, _ pipeline: Pipeline, to json: inout JSONWriter) {
        json.member("ingestTime", Timestamp.text(record.ingestTime))
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

/// RFC 3339 in UTC with microseconds. Method: Howard Hinnant's civil-from-days.
package enum Timestamp {
    package static func text(_ microseconds: Int64) -> String {
        let days = Int((Double(microseconds) / 86_400_000_000).rounded(.down))
        let rest = Int(microseconds - Int64(days) * 86_400_000_000)
        let z = days + 719_468
        let era = (z >= 0 ? z : z - 146_096) / 146_097
        let doe = z - era * 146_097
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100)
        let mp = (5 * doy + 2) / 153
        let month = mp < 10 ? mp + 3 : mp - 9
        func pad(_ value: Int, _ digits: Int) -> String {
            let text = String(value)
            return String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
        }
        let seconds = rest / 1_000_000
        return
            "\(pad(yoe + era * 400 + (month <= 2 ? 1 : 0), 4))-\(pad(month, 2))-\(pad(doy - (153 * mp + 2) / 5 + 1, 2))T"
            + "\(pad(seconds / 3600, 2)):\(pad(seconds / 60 % 60, 2)):\(pad(seconds % 60, 2)).\(pad(rest % 1_000_000, 6))Z"
    }
}
