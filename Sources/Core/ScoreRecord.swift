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
        var degraded: Bool
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
        Timestamp.write(event.time, to: &writer)
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
        if event.degraded { writer.append(",\"degraded\":true") } else { writer.append(",\"degraded\":false") }
        writer.append(",\"partition\":")
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

    private static func number(_ value: Float, to writer: inout ByteWriter) {
        guard value.isFinite else { return writer.append("null") }
        // The shortest text that reads back as the same Float32.
        writer.append(utf8: value.description)
    }
}
