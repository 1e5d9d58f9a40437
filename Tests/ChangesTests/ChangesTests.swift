import CChecksum
import Changes
import Testing

/// A small generator with a printed seed, so that a failing mutation can be made again.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

func header(seq: UInt64 = 7, scored: UInt32 = 3) -> ChangeBatchHeader {
    ChangeBatchHeader(
        lineage: Lineage(high: 0x0123_4567_89AB_4DEF, low: 0x8123_4567_89AB_CDEF), partition: 2, seq: seq,
        firstOffset: 100, endOffset: 100 + UInt64(scored), commitTime: 1_700_000_000_000_000, watermark: 42, schema: 1,
        scored: scored)
}

/// Keys, values and vectors of a batch that has every kind of change.
struct Sample: Equatable {
    var operation: ChangeOperation
    var kind: ChangeKind
    var key: [UInt8]
    var value: [UInt8]
    var vector: [Float]
}

func samples(_ generator: inout SeededGenerator) -> [Sample] {
    (0..<Int.random(in: 0...20, using: &generator)).map { index in
        Sample(
            operation: index % 5 == 4 ? .delete : .upsert,
            kind: index < 3 ? .sharedTile : index % 2 == 0 ? .event : .tile,
            key: [4] + Array("card".utf8) + (0..<8).map { _ in UInt8.random(in: 0...255, using: &generator) },
            value: (0..<Int.random(in: 0...200, using: &generator)).map { UInt8($0 & 7) },
            vector: index % 2 == 0 ? (0..<32).map { Float($0) * 0.25 } : [])
    }
}

func encode(_ samples: [Sample], header: ChangeBatchHeader = header(), compression: Compression) -> (
    bytes: [UInt8], digest: UInt64
) {
    var writer = ChangeBatchWriter(compression: compression)
    writer.begin(frontier: [PartitionPosition(partition: 1, seq: 9), PartitionPosition(partition: 3, seq: 4)])
    for sample in samples {
        sample.key.withUnsafeBytes { key in
            sample.value.withUnsafeBytes { value in
                sample.vector.withUnsafeBufferPointer { vector in
                    writer.append(sample.operation, sample.kind, key: key, value: value, vector: vector)
                }
            }
        }
    }
    return writer.encode(header, digestAfter: 5) { (Array($0), $1) }
}

func decode(_ bytes: [UInt8]) throws(ChangeBatchError) -> ChangeBatch {
    try bytes.span.bytes.withUnsafeBytes { (raw) throws(ChangeBatchError) in try ChangeBatch(decoding: raw) }
}

@Suite struct ChangeBatchTests {
    @Test(arguments: [Compression.none, .lz4, .zstd])
    func roundTrip(_ compression: Compression) throws {
        var generator = SeededGenerator(state: 11)
        for _ in 0..<200 {
            let expected = samples(&generator)
            let (bytes, digest) = encode(expected, compression: compression)
            let batch = try decode(bytes)
            #expect(batch.header == header())
            #expect(batch.frontier == [.init(partition: 1, seq: 9), .init(partition: 3, seq: 4)])
            #expect(batch.digest(after: 5) == digest)
            var seen: [Sample] = []
            batch.forEachChange { change in
                seen.append(
                    Sample(
                        operation: change.operation, kind: change.kind, key: Array(change.key),
                        value: Array(change.value),
                        vector: stride(from: 0, to: change.vector.count, by: 4).map {
                            change.vector.loadUnaligned(fromByteOffset: $0, as: Float.self)
                        }))
            }
            #expect(seen == expected)
            var shared = 0
            batch.forEachChange(sharedOnly: true) { _ in shared += 1 }
            #expect(shared == expected.filter { $0.kind == .sharedTile }.count)
        }
    }

    @Test func compressionPays() {
        let sample = Sample(
            operation: .upsert, kind: .event, key: [0, 1], value: .init(repeating: 3, count: 4000), vector: [])
        let plain = encode([sample], compression: .none).bytes.count
        #expect(encode([sample], compression: .lz4).bytes.count < plain / 10)
        #expect(encode([sample], compression: .zstd).bytes.count < plain / 10)
    }

    @Test func everyTruncationIsAnError() {
        var generator = SeededGenerator(state: 3)
        let bytes = encode(samples(&generator), compression: .lz4).bytes
        for length in 0..<bytes.count {
            #expect(throws: ChangeBatchError.self) { try decode(Array(bytes[..<length])) }
        }
    }

    @Test func everyBitFlipIsAnError() {
        var generator = SeededGenerator(state: 4)
        let bytes = encode(samples(&generator), compression: .zstd).bytes
        for bit in 0..<(bytes.count * 8) {
            var flipped = bytes
            flipped[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(throws: ChangeBatchError.self) { try decode(flipped) }
        }
    }

    @Test func unknownVersionIsNamed() {
        var bytes = encode([], compression: .lz4).bytes
        bytes[4] = 2
        #expect(throws: ChangeBatchError.unknownVersion(2)) { try decode(bytes) }
    }

    @Test func announcedSizeNeverExceedsWhatTheInputAllows() {
        var bytes = encode([], compression: .lz4).bytes
        bytes.withUnsafeMutableBytes { $0.storeBytes(of: UInt32(7 << 20), toByteOffset: 92, as: UInt32.self) }
        reseal(&bytes)
        #expect(throws: ChangeBatchError.bodyTooLarge(bytes: 7 << 20)) { try decode(bytes) }
    }

    @Test func countsMustAddUp() {
        var bytes = encode([], compression: .none).bytes
        bytes[80] = 2
        reseal(&bytes)
        #expect(throws: ChangeBatchError.inconsistentCounts) { try decode(bytes) }
    }

    /// 1,000,000 mutated batches, half of them with a checksum made right again so that the inner checks are reached.
    @Test(.timeLimit(.minutes(5))) func mutatedBatchesNeverCrash() {
        let seed: UInt64 = 0x7469_6465
        var generator = SeededGenerator(state: seed)
        let originals = (0..<64).map { index in
            encode(samples(&generator), compression: [.none, .lz4, .zstd][index % 3]).bytes
        }
        var accepted = 0
        var refused = 0
        for round in 0..<1_000_000 {
            var bytes = originals[round % originals.count]
            for _ in 0..<Int.random(in: 1...4, using: &generator) where !bytes.isEmpty {
                let at = Int.random(in: 0..<bytes.count, using: &generator)
                switch Int.random(in: 0..<4, using: &generator) {
                case 0: bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
                case 1: bytes[at] = UInt8.random(in: 0...255, using: &generator)
                case 2: bytes.removeSubrange(at..<min(bytes.count, at + Int.random(in: 1...16, using: &generator)))
                default: bytes.insert(UInt8.random(in: 0...255, using: &generator), at: at)
                }
            }
            if round % 2 == 0 { reseal(&bytes) }
            do {
                let batch = try decode(bytes)
                batch.forEachChange { _ in }
                accepted += 1
            } catch {
                refused += 1
            }
        }
        // Resealed mutations of a header's plain numbers are well-formed; the rest is refused.
        #expect(accepted > 0 && refused > 500_000, "seed \(seed): \(accepted) accepted, \(refused) refused")
    }

    /// Makes announced lengths and checksum agree with the bytes again.
    private func reseal(_ bytes: inout [UInt8]) {
        guard bytes.count >= ChangeBatchHeader.byteCount + 4 else { return }
        let end = bytes.count - 4
        bytes.withUnsafeMutableBytes { raw in
            raw.storeBytes(of: UInt32(end - ChangeBatchHeader.byteCount), toByteOffset: 96, as: UInt32.self)
            let checksum = crc32c(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(raw)[..<end]))
            raw.storeBytes(of: checksum, toByteOffset: end, as: UInt32.self)
        }
    }
}

@Suite struct ChecksumTests {
    @Test func knownValueAndBothForms() {
        let digits = Array("123456789".utf8)
        #expect(digits.withUnsafeBytes { crc32c($0) } == 0xE306_9283)
        var generator = SeededGenerator(state: 9)
        for length in 0..<300 {
            let bytes = (0..<length).map { _ in UInt8.random(in: 0...255, using: &generator) }
            bytes.withUnsafeBytes { raw in
                #expect(tl_crc32c(7, raw.baseAddress, raw.count) == tl_crc32c_table(7, raw.baseAddress, raw.count))
            }
        }
    }

    @Test func partitionsAreEven() {
        var counts = [0, 0, 0, 0]
        for index in 0..<40_000 {
            let key = Array("customer-\(index)".utf8)
            counts[key.withUnsafeBytes { partition(of: $0, count: 4) }] += 1
        }
        #expect(counts.allSatisfy { abs($0 - 10_000) < 500 })
    }

    @Test func lineageReadsWhatItWrites() {
        for _ in 0..<100 {
            let lineage = Lineage.random()
            #expect(Lineage(lineage.description) == lineage)
        }
        #expect(Lineage("0123") == nil)
        #expect(Lineage("zzzzzzzz-zzzz-4zzz-8zzz-zzzzzzzzzzzz") == nil)
    }
}

@Suite struct TimestampTests {
    @Test(
        arguments: [
            (0, "1970-01-01T00:00:00.000000Z"), (1_709_208_000_000_001, "2024-02-29T12:00:00.000001Z"),
            (-1, "1969-12-31T23:59:59.999999Z"), (946_684_799_999_999, "1999-12-31T23:59:59.999999Z"),
            (Int64.max, "9999-12-31T23:59:59.999999Z"), (Int64.min, "0000-01-01T00:00:00.000000Z"),
        ] as [(Int64, String)])
    func isWrittenInUTC(_ time: Int64, _ text: String) {
        #expect(Timestamp.text(time) == text)
        var writer = ByteWriter()
        Timestamp.write(time, to: &writer)
        #expect(String(decoding: writer.bytes, as: UTF8.self) == text)
        if time > -62_167_219_200_000_000, time < 253_402_300_799_999_999 { #expect(Timestamp.parse(text) == time) }
    }

    @Test func whatIsNoTimeIsNotRead() {
        #expect(Timestamp.parse("2024-02-29") == 1_709_164_800_000_000)
        #expect(Timestamp.parse("2024-02-29T12:00:00Z") == 1_709_208_000_000_000)
        #expect(Timestamp.parse("2024-02-29T12:00:00.5Z") == 1_709_208_000_500_000)
        for bad in [
            "", "2024", "2023-02-29", "2024-13-01", "2024-02-29T12:00:00", "2024-02-29T24:00:00Z",
            "2024-02-29 12:00:00Z",
            "2024-02-29T12:00:00.Z", "2024-02-29T12:00:00.1234567Z", "2024-02-29T12:00:00+01:00", "2024-2-29",
            "1709208000",
        ] { #expect(Timestamp.parse(bad) == nil, "\(bad)") }
    }
}

@Suite struct EventRecordTests {
    @Test func roundTripAndTruncation() throws {
        var writer = ByteWriter()
        let row: [Float] = [1, .nan, -3.5]
        let head = EventRecord.Head(
            eventTime: 5, ingestTime: 6, inputOffset: 7, model: 8, score: 0.25, flags: [.flagged, .late])
        row.withUnsafeBufferPointer { features in
            [UInt8](arrayLiteral: 1, 2, 3).withUnsafeBytes { fields in
                EventRecord.write(
                    head, features: features, reasons: [.init(feature: 2, contribution: -1)], fields: fields,
                    to: &writer)
            }
        }
        let bytes = Array(writer.bytes)
        try bytes.withUnsafeBytes { raw in
            let record = try #require(EventRecord(raw))
            #expect(record.eventTime == 5 && record.ingestTime == 6 && record.inputOffset == 7 && record.model == 8)
            #expect(record.score == 0.25 && record.flags == [.flagged, .late])
            #expect(record.feature(0) == 1 && record.feature(1).isNaN && record.feature(2) == -3.5)
            #expect(record.reason(0) == .init(feature: 2, contribution: -1))
            #expect(Array(record.fields) == [1, 2, 3])
        }
        for length in 0..<bytes.count {
            bytes[..<length].withUnsafeBytes { #expect(EventRecord($0) == nil) }
        }
    }
}
