import Changes
internal import Foundation

/// One scored event for other people's consumers: a JSON line with `id`, `tenant`, `entity`, `time` (RFC 3339), `score`,
/// `flagged`, `reasons`, `model`, `degraded`, `partition`, `seq` and `inputOffset`.
enum ScoreRecord {
    @safe struct Event {
        var id: UnsafeRawBufferPointer
        var entity: UnsafeRawBufferPointer
        var time: Int64
        var score: Float
        var flagged: Bool
        var partition: Int
        var seq: UInt64
        var offset: UInt64
    }

    static func write(
        _ event: Event, tenant: String, model: String, reasons: [EventRecord.Reason], names: [String],
        to writer: inout ByteWriter
    ) {
        writer.append("{\"id\":")
        unsafe string(event.id, to: &writer)
        writer.append(",\"tenant\":")
        string(tenant, to: &writer)
        writer.append(",\"entity\":")
        unsafe string(event.entity, to: &writer)
        writer.append(",\"time\":\"")
        timestamp(event.time, to: &writer)
        writer.append("\",\"score\":")
        number(event.score, to: &writer)
        if event.flagged {
            writer.append(",\"flagged\":true,\"reasons\":[")
            for (index, reason) in reasons.enumerated() {
                if index > 0 { writer.append(",") }
                string(names[Int(reason.feature)], to: &writer)
            }
            writer.append("]")
        } else {
            writer.append(",\"flagged\":false,\"reasons\":[]")
        }
        writer.append(",\"model\":")
        string(model, to: &writer)
        writer.append(",\"degraded\":false,\"partition\":")
        integer(UInt64(event.partition), to: &writer)
        writer.append(",\"seq\":")
        integer(event.seq, to: &writer)
        writer.append(",\"inputOffset\":")
        integer(event.offset, to: &writer)
        writer.append("}\n")
    }

    private static func string(_ text: String, to writer: inout ByteWriter) {
        var text = text
        text.withUTF8 { unsafe string(UnsafeRawBufferPointer($0), to: &writer) }
    }

    private static func string(_ bytes: UnsafeRawBufferPointer, to writer: inout ByteWriter) {
        writer.append(UInt8(ascii: "\""))
        let plain = unsafe bytes.allSatisfy { $0 >= 0x20 && $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "\\") }
        if plain {
            unsafe writer.append(bytes)
        } else {
            let digits = Array("0123456789abcdef".utf8)
            for index in bytes.indices {
                let byte = unsafe bytes[index]
                switch byte {
                case UInt8(ascii: "\""): writer.append("\\\"")
                case UInt8(ascii: "\\"): writer.append("\\\\")
                case 0..<0x20:
                    writer.append("\\u00")
                    writer.append(digits[Int(byte >> 4)])
                    writer.append(digits[Int(byte & 15)])
                default: writer.append(byte)
                }
            }
        }
        writer.append(UInt8(ascii: "\""))
    }

    static func integer(_ value: UInt64, to writer: inout ByteWriter) {
        var divisor: UInt64 = 1
        while value / divisor >= 10 { divisor *= 10 }
        while divisor > 0 {
            writer.append(UInt8(ascii: "0") + UInt8(value / divisor % 10))
            divisor /= 10
        }
    }

    private static func padded(_ value: Int, _ digits: Int, to writer: inout ByteWriter) {
        var divisor = 1
        for _ in 1..<digits { divisor *= 10 }
        while divisor > 0 {
            writer.append(UInt8(ascii: "0") + UInt8(value / divisor % 10))
            divisor /= 10
        }
    }

    private static func number(_ value: Float, to writer: inout ByteWriter) {
        guard value.isFinite else { return writer.append("null") }
        // The shortest text that reads back as the same Float32.
        writer.append(utf8: value.description)
    }

    /// Method: Howard Hinnant's civil-from-days.
    static func timestamp(_ microseconds: Int64, to writer: inout ByteWriter) {
        let days = Int(microseconds / 86_400_000_000)
        let rest = Int(microseconds % 86_400_000_000)
        let z = days + 719_468
        let era = z / 146_097
        let doe = z - era * 146_097
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100)
        let mp = (5 * doy + 2) / 153
        let month = mp < 10 ? mp + 3 : mp - 9
        padded(yoe + era * 400 + (month <= 2 ? 1 : 0), 4, to: &writer)
        writer.append("-")
        padded(month, 2, to: &writer)
        writer.append("-")
        padded(doy - (153 * mp + 2) / 5 + 1, 2, to: &writer)
        writer.append("T")
        let seconds = rest / 1_000_000
        padded(seconds / 3600, 2, to: &writer)
        writer.append(":")
        padded(seconds / 60 % 60, 2, to: &writer)
        writer.append(":")
        padded(seconds % 60, 2, to: &writer)
        writer.append(".")
        padded(rest % 1_000_000, 6, to: &writer)
        writer.append("Z")
    }
}
