/// The value of an `event` change: a decision as it was made, to be shown, explained and exported.
///
/// Layout, little-endian: event time (i64 µs), ingest time (i64 µs), input offset (u64), model (u64, the first bytes of
/// its hash), score (f32), flags (u32), feature count (u16), reason count (u16), field bytes (u32); then the feature
/// row (f32 each), the reasons (feature index u16, 0 u16, contribution f32), the mapped fields.
@safe package struct EventRecord {
    package struct Flags: OptionSet, Sendable {
        package let rawValue: UInt32
        package init(rawValue: UInt32) { self.rawValue = rawValue }
        /// The score passed the pipeline's threshold.
        package static let flagged = Flags(rawValue: 1)
        /// A fallback answered instead of the model that the pipeline names.
        package static let degraded = Flags(rawValue: 2)
        /// The event's time lies further ahead than the pipeline allows; it did not move the watermark.
        package static let fromFuture = Flags(rawValue: 4)
        /// The event came too late for at least one of its windows.
        package static let late = Flags(rawValue: 8)
    }

    package struct Reason: Sendable, Equatable {
        package var feature: UInt16
        package var contribution: Float

        package init(feature: UInt16, contribution: Float) {
            self.feature = feature
            self.contribution = contribution
        }
    }

    package static let headerBytes = 48

    package let bytes: UnsafeRawBufferPointer
    package let featureCount: Int
    package let reasonCount: Int

    /// Checks the layout once; `nil` where the bytes do not hold a record.
    package init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= Self.headerBytes else { return nil }
        unsafe self.bytes = unsafe bytes
        featureCount = unsafe Int(UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: 40, as: UInt16.self)))
        reasonCount = unsafe Int(UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: 42, as: UInt16.self)))
        let fieldBytes = unsafe Int(UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 44, as: UInt32.self)))
        guard bytes.count == Self.headerBytes + featureCount * 4 + reasonCount * 8 + fieldBytes else { return nil }
    }

    package var eventTime: Int64 { unsafe Int64(littleEndian: bytes.loadUnaligned(fromByteOffset: 0, as: Int64.self)) }
    package var ingestTime: Int64 { unsafe Int64(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: Int64.self)) }
    package var inputOffset: UInt64 {
        unsafe UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
    }
    package var model: UInt64 { unsafe UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 24, as: UInt64.self)) }
    package var score: Float {
        unsafe Float(bitPattern: UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 32, as: UInt32.self)))
    }
    package var flags: Flags {
        unsafe Flags(rawValue: UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 36, as: UInt32.self)))
    }

    package func feature(_ index: Int) -> Float {
        precondition(index >= 0 && index < featureCount)
        let bits = unsafe bytes.loadUnaligned(fromByteOffset: Self.headerBytes + index * 4, as: UInt32.self)
        return Float(bitPattern: UInt32(littleEndian: bits))
    }

    package func reason(_ index: Int) -> Reason {
        precondition(index >= 0 && index < reasonCount)
        let offset = Self.headerBytes + featureCount * 4 + index * 8
        return unsafe Reason(
            feature: UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self)),
            contribution: Float(
                bitPattern: UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: offset + 4, as: UInt32.self))))
    }

    /// The mapped fields, in the pipeline's own encoding.
    package var fields: UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(rebasing: bytes[(Self.headerBytes + featureCount * 4 + reasonCount * 8)...])
    }
}

extension EventRecord {
    /// What a record says beside its row, reasons and fields.
    package struct Head: Sendable {
        package var eventTime: Int64
        package var ingestTime: Int64
        package var inputOffset: UInt64
        package var model: UInt64
        package var score: Float
        package var flags: Flags

        package init(
            eventTime: Int64, ingestTime: Int64, inputOffset: UInt64, model: UInt64, score: Float, flags: Flags
        ) {
            self.eventTime = eventTime
            self.ingestTime = ingestTime
            self.inputOffset = inputOffset
            self.model = model
            self.score = score
            self.flags = flags
        }
    }

    /// Writes a record at the end of `writer`.
    package static func write(
        _ head: Head, features: UnsafeBufferPointer<Float>, reasons: [Reason], fields: UnsafeRawBufferPointer,
        to writer: inout ByteWriter
    ) {
        let size = headerBytes + features.count * 4 + reasons.count * 8 + fields.count
        let target = unsafe writer.extend(by: size)
        unsafe target.storeBytes(of: head.eventTime.littleEndian, as: Int64.self)
        unsafe target.storeBytes(of: head.ingestTime.littleEndian, toByteOffset: 8, as: Int64.self)
        unsafe target.storeBytes(of: head.inputOffset.littleEndian, toByteOffset: 16, as: UInt64.self)
        unsafe target.storeBytes(of: head.model.littleEndian, toByteOffset: 24, as: UInt64.self)
        unsafe target.storeBytes(of: head.score.bitPattern.littleEndian, toByteOffset: 32, as: UInt32.self)
        unsafe target.storeBytes(of: head.flags.rawValue.littleEndian, toByteOffset: 36, as: UInt32.self)
        unsafe target.storeBytes(of: UInt16(features.count).littleEndian, toByteOffset: 40, as: UInt16.self)
        unsafe target.storeBytes(of: UInt16(reasons.count).littleEndian, toByteOffset: 42, as: UInt16.self)
        unsafe target.storeBytes(of: UInt32(fields.count).littleEndian, toByteOffset: 44, as: UInt32.self)
        var cursor = unsafe target + headerBytes
        if let row = features.baseAddress {
            unsafe cursor.copyMemory(from: row, byteCount: features.count * 4)
            unsafe cursor += features.count * 4
        }
        for reason in reasons {
            unsafe cursor.storeBytes(of: reason.feature.littleEndian, as: UInt16.self)
            unsafe cursor.storeBytes(of: 0, toByteOffset: 2, as: UInt16.self)
            unsafe cursor.storeBytes(of: reason.contribution.bitPattern.littleEndian, toByteOffset: 4, as: UInt32.self)
            unsafe cursor += 8
        }
        if let base = fields.baseAddress, fields.count > 0 {
            unsafe cursor.copyMemory(from: base, byteCount: fields.count)
        }
    }
}
