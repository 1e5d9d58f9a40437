import Changes

/// The fields that are kept with a scored event, in the pipeline's order: a text as its length (u16, 0xFFFF where it is
/// missing) and bytes, a number as a Float64 (NaN where it is missing).
package enum KeptFields {
    package enum Value: Equatable, Sendable {
        case missing
        case text(String)
        case number(Double)
    }

    /// Appends the decoder's kept fields to `writer`. A text over `Pipeline.textBytesMax` is cut at a character's edge.
    package static func write(_ decoder: EventDecoder, to writer: inout ByteWriter) {
        let pipeline = decoder.pipeline
        for column in pipeline.kept {
            switch pipeline.columns[column].type {
            case .number:
                writer.append(decoder.number(column))
            case .vector: preconditionFailure("a vector is kept apart from the fields")
            case .text, .time:
                var text = unsafe decoder.text(column)
                if unsafe text.baseAddress == nil {
                    writer.append(UInt16.max)
                    continue
                }
                if text.count > Pipeline.textBytesMax {
                    var end = Pipeline.textBytesMax
                    while end > 0, unsafe text[end] & 0xC0 == 0x80 { end -= 1 }
                    unsafe text = unsafe UnsafeRawBufferPointer(rebasing: text[..<end])
                }
                writer.append(UInt16(text.count))
                unsafe writer.append(text)
            }
        }
    }

    /// A field in the record's own bytes.
    @safe package enum Stored {
        case missing
        case text(UnsafeRawBufferPointer)
        case number(Double)
    }

    /// Visits each kept field; stops early where the bytes end.
    package static func forEach(
        in bytes: UnsafeRawBufferPointer, of pipeline: Pipeline, _ visit: (_ column: Int, Value) -> Void
    ) {
        unsafe forEachStored(in: bytes, of: pipeline) { column, value in
            switch value {
            case .missing: visit(column, .missing)
            case .number(let number): visit(column, .number(number))
            case .text(let text): unsafe visit(column, .text(String(decoding: text, as: UTF8.self)))
            }
        }
    }

    /// The same without a `String` for each text.
    package static func forEachStored(
        in bytes: UnsafeRawBufferPointer, of pipeline: Pipeline, _ visit: (_ column: Int, Stored) -> Void
    ) {
        var reader = unsafe ByteReader(bytes)
        for column in pipeline.kept {
            switch pipeline.columns[column].type {
            case .number:
                guard let value = reader.readDouble() else { return }
                visit(column, value.isNaN ? .missing : .number(value))
            case .vector: preconditionFailure("a vector is kept apart from the fields")
            case .text, .time:
                guard let length = reader.read(UInt16.self) else { return }
                guard length != .max else {
                    visit(column, .missing)
                    continue
                }
                guard let text = unsafe reader.read(count: Int(length)) else { return }
                unsafe visit(column, .text(text))
            }
        }
    }
}
