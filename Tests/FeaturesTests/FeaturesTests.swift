import CWindows
import Changes
import Features
import Foundation
import Testing

let samplePipeline = """
    pipeline: sample
    event: { id: id, time: { path: t, unit: us } }
    entities:
      customer: { path: customer }
      terminal: { path: terminal, shared: true }
    fields:
      amount: { type: number }
    features:
      - value: amount
      - since_last: [customer, terminal]
      - windows: { entity: customer, of: amount, over: [5m, 1h, 24h, 7d, 30d], compute: [count, sum, mean, max, min, stddev] }
      - windows: { entity: customer, distinct: terminal, over: [24h, 30d] }
      - windows: { entity: terminal, of: amount, over: [1h, 24h, 30d], compute: [count, mean, max, stddev] }
      - ratio: { entity: customer, of: amount, over: 7d }
    """

struct PlainEvent {
    var id: Int
    var time: Int64
    var customer: Int
    var terminal: Int
    var amount: Double
    var partition: Int

    var json: [UInt8] {
        Array(
            """
            {"id":"e\(id)","t":\(time),"customer":"c\(customer)","terminal":\(terminal),"amount":\(amount)}
            """.utf8)
    }
}

struct SplitMix: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

func plainEvents(_ count: Int, seed: UInt64, step: ClosedRange<Int64> = 1...600_000_000) -> [PlainEvent] {
    var random = SplitMix(state: seed)
    var time: Int64 = 1_700_000_000_000_000
    return (0..<count).map { index in
        time += Int64.random(in: step, using: &random)
        let customer = Int.random(in: 0..<7, using: &random)
        // One event in eight comes late, by up to two hours.
        let late = Int.random(in: 0..<8, using: &random) == 0 ? Int64.random(in: 0...7_200_000_000, using: &random) : 0
        return PlainEvent(
            id: index, time: time - late, customer: customer, terminal: Int.random(in: 0..<5, using: &random),
            amount: Double(Int.random(in: 1...100_000, using: &random)) / 100, partition: customer % 3)
    }
}

func observe(_ state: FeatureState, _ decoder: EventDecoder, _ event: PlainEvent) throws -> [Float] {
    let json = event.json
    return try json.withUnsafeBytes { bytes in
        if let refusal = decoder.decode(bytes, readable: bytes.count) { throw refusal }
        return [Float](unsafeUninitializedCapacity: state.featureCount) { row, count in
            _ = state.observe(
                decoder, tenant: 0, partition: event.partition, time: decoder.time, row: row.baseAddress!)
            count = state.featureCount
        }
    }
}

func same(_ a: [Float], _ b: [Float]) -> Bool {
    a.count == b.count && zip(a, b).allSatisfy { $0.bitPattern == $1.bitPattern || ($0.isNaN && $1.isNaN) }
}

@Suite struct FeatureStateTests {
    let pipeline: Pipeline

    init() throws { pipeline = try Pipeline(text: samplePipeline, file: "sample.yaml") }

    /// Every window feature against a recomputation from the whole history by the written rule.
    @Test func featuresEqualAPlainRecomputation() throws {
        let state = FeatureState(pipeline, partitions: 3)
        let decoder = EventDecoder(pipeline)
        // Without late events older than a ring: each tile that a window covers is still there.
        let events = plainEvents(3000, seed: 5)
        var maximal = 0.0
        for (position, event) in events.enumerated() {
            let row = try observe(state, decoder, event)
            state.commit()
            let expected = plainRow(events[...position], event)
            for (name, value) in expected {
                let index = try #require(pipeline.featureNames.firstIndex(of: name))
                let difference = abs(Double(row[index]) - value) / max(1, abs(value))
                if !(row[index].isNaN && value.isNaN) {
                    maximal = max(maximal, difference.isNaN ? .infinity : difference)
                }
                if difference > 1e-6 { Issue.record("event \(position) \(name): \(row[index]), expected \(value)") }
            }
            if maximal > 1e-6 { break }
        }
    }

    private func plainRow(_ history: ArraySlice<PlainEvent>, _ event: PlainEvent) -> [(String, Double)] {
        func window(_ width: Int64, _ tiles: Int64, _ ring: Int64, _ same: (PlainEvent) -> Bool, partitioned: Bool)
            -> [Double]
        {
            let last = event.time / width
            // A late event whose slot a newer tile holds is dropped from that level: by arrival order, per partition.
            var newest: [Int64: Int64] = [:]
            var result: [(index: Int64, slot: Int64, partition: Int, amount: Double)] = []
            for other in history where same(other) {
                let index = other.time / width
                let slot = index % ring + Int64(partitioned ? other.partition : 0) * 1000
                if let held = newest[slot], held > index { continue }
                newest[slot] = index
                result.append((index, slot, other.partition, other.amount))
            }
            var merged: [Int64: Int64] = [:]
            for (slot, index) in newest { merged[slot % 1000] = max(merged[slot % 1000] ?? 0, index) }
            return result.filter {
                $0.index <= last && $0.index >= last - tiles && newest[$0.slot] == $0.index
                    && merged[$0.slot % 1000] == $0.index
            }.map(\.amount)
        }
        let minute: Int64 = 60_000_000
        let spans: [(String, Int64, Int64, Int64)] = [
            ("5m", minute, 5, 64), ("1h", minute, 60, 64), ("24h", minute * 60, 24, 32),
            ("7d", minute * 1440, 7, 32), ("30d", minute * 1440, 30, 32),
        ]
        var row: [(String, Double)] = []
        for (label, width, tiles, ring) in spans {
            let own = window(width, tiles, ring, { $0.customer == event.customer }, partitioned: false)
            let mean = own.reduce(0, +) / Double(own.count)
            let variance = own.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(own.count)
            row.append(("customer.count.\(label)", Double(own.count)))
            row.append(("customer.amount.sum.\(label)", own.reduce(0, +)))
            row.append(("customer.amount.mean.\(label)", own.isEmpty ? .nan : mean))
            row.append(("customer.amount.max.\(label)", own.max() ?? .nan))
            row.append(("customer.amount.min.\(label)", own.min() ?? .nan))
            // The deviation of values up to 1,000 from sums of squares: absolute error under 1e-4 near zero.
            if own.count > 3 { row.append(("customer.amount.stddev.\(label)", variance.squareRoot())) }
            if label == "7d" { row.append(("customer.amount.ratio.7d", event.amount / mean)) }
            guard ["1h", "24h", "30d"].contains(label) else { continue }
            let there = window(width, tiles, ring, { $0.terminal == event.terminal }, partitioned: true)
            row.append(("terminal.count.\(label)", Double(there.count)))
            row.append(("terminal.amount.max.\(label)", there.max() ?? .nan))
            row.append(
                ("terminal.amount.mean.\(label)", there.isEmpty ? .nan : there.reduce(0, +) / Double(there.count)))
        }
        return row
    }

    @Test func sinceLastIsTheTimeToTheEntitysLatestEvent() throws {
        let state = FeatureState(pipeline, partitions: 3)
        let decoder = EventDecoder(pipeline)
        let index = try #require(pipeline.featureNames.firstIndex(of: "customer.since_last"))
        let terminal = try #require(pipeline.featureNames.firstIndex(of: "terminal.since_last"))
        let t: Int64 = 1_700_000_000_000_000
        func row(_ time: Int64, customer: Int) throws -> [Float] {
            let row = try observe(
                state, decoder,
                PlainEvent(id: 0, time: time, customer: customer, terminal: 1, amount: 1, partition: customer % 3))
            state.commit()
            return row
        }
        #expect(try row(t, customer: 1)[index].isNaN)
        #expect(try row(t + 2_500_000, customer: 1)[index] == 2.5)
        let other = try row(t + 3_500_000, customer: 2)
        #expect(other[index].isNaN && other[terminal] == 1)
        #expect(try row(t + 1_000_000, customer: 1)[index] == 0, "a late event is not negative seconds away")
    }

    @Test func rollbackLeavesNoTrace() throws {
        let decoder = EventDecoder(pipeline)
        let events = plainEvents(400, seed: 8)
        let extra = plainEvents(300, seed: 9)
        let plain = FeatureState(pipeline, partitions: 3)
        let disturbed = FeatureState(pipeline, partitions: 3)
        for (index, event) in events.enumerated() {
            let expected = try observe(plain, decoder, event)
            plain.commit()
            if index % 20 == 0 {
                for other in extra[index / 2..<index / 2 + 40] where other.partition == index / 20 % 3 {
                    _ = try observe(disturbed, decoder, other)
                }
                disturbed.rollback()
            }
            let row = try observe(disturbed, decoder, event)
            disturbed.commit()
            let equal = same(row, expected)
            #expect(equal, "event \(index)")
        }
    }

    /// The core's tiles, shipped as changes, give a replica the same state; so do a sweep and a restart.
    @Test func replicaAndRestartSeeTheSame() throws {
        let decoder = EventDecoder(pipeline)
        let core = FeatureState(pipeline, partitions: 3)
        let replica = FeatureState(pipeline, partitions: 3)
        let events = plainEvents(900, seed: 21)
        var writer = ChangeBatchWriter()
        var seq: UInt64 = 0
        for start in stride(from: 0, to: events.count, by: 30) {
            for partition in 0..<3 {
                for event in events[start..<start + 30] where event.partition == partition {
                    _ = try observe(core, decoder, event)
                }
                writer.begin(frontier: [])
                core.stage(partition: partition, into: &writer)
                core.commit()
                seq += 1
                let header = ChangeBatchHeader(
                    lineage: Lineage(high: 1, low: 2), partition: UInt32(partition), seq: seq, firstOffset: 0,
                    endOffset: 0, commitTime: 0, watermark: 0, schema: 1)
                let batch = try writer.encode(header, digestAfter: 0) { bytes, _ in try ChangeBatch(decoding: bytes) }
                batch.forEachChange { #expect(replica.apply($0, partition: partition)) }
            }
        }
        let restarted = FeatureState(pipeline, partitions: 3)
        replica.beginSweep()
        while replica.sweepRemaining > 0 {
            replica.continueSweep(max: 3) { #expect(restarted.restore(storageKey: $0, value: $1)) }
        }
        for event in plainEvents(200, seed: 22) {
            let expected = try observe(core, decoder, event)
            core.rollback()
            for state in [replica, restarted] {
                let equal = same(try observe(state, decoder, event), expected)
                #expect(equal, "event \(event.id)")
                state.rollback()
            }
        }
    }

    @Test func evictedEntitiesComeBackFromTheStore() throws {
        let decoder = EventDecoder(pipeline)
        let whole = FeatureState(pipeline, partitions: 3)
        let small = FeatureState(pipeline, partitions: 3)
        var store: [[UInt8]: [UInt8]] = [:]
        small.load = { key, use in store[Array(key)]?.withUnsafeBytes { use($0) } }
        for (index, event) in plainEvents(600, seed: 31).enumerated() {
            let expected = try observe(whole, decoder, event)
            whole.commit()
            let equal = same(try observe(small, decoder, event), expected)
            #expect(equal, "event \(index)")
            small.commit()
            guard index % 10 == 9 else { continue }
            small.beginSweep()
            small.continueSweep(max: .max) { store[Array($0)] = Array($1) }
            #expect(small.evict(to: 2) > 0 && small.entityCount <= 2)
        }
    }

    @Test func everyInstructionSetGivesTheSameBits() throws {
        let decoder = EventDecoder(pipeline)
        defer { tl_windows_force_level(-1) }
        let events = plainEvents(500, seed: 77)
        var rows: [[[Float]]] = []
        for level: Int32 in [0, 1, 2] where level == 0 || tl_has(level) {
            tl_windows_force_level(level)
            let state = FeatureState(pipeline, partitions: 3)
            rows.append(
                try events.map { event in
                    defer { state.commit() }
                    return try observe(state, decoder, event)
                })
        }
        for other in rows.dropFirst() { #expect(zip(rows[0], other).allSatisfy { same($0, $1) }) }
    }

    private func tl_has(_ level: Int32) -> Bool {
        let flags = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
        return flags.contains(level == 1 ? " avx2" : " avx512vl")
    }
}

@Suite struct EventDecoderTests {
    func decoder(unit: String = "rfc3339", extra: String = "") throws -> EventDecoder {
        EventDecoder(
            try Pipeline(
                text: """
                    pipeline: p
                    event: { id: id, time: { path: meta.time, unit: \(unit) }\(extra) }
                    entities: { card: { path: card } }
                    fields: { amount: { type: number, required: true }, note: { type: text } }
                    features: [ { value: amount } ]
                    """, file: "p.yaml"))
    }

    func refusal(_ decoder: EventDecoder, _ json: String) -> String? {
        Array(json.utf8).withUnsafeBytes { decoder.decode($0, readable: $0.count)?.description }
    }

    func event(
        id: String = "\"a\"", time: String = "\"2024-02-29T12:00:00Z\"", amount: String = "1", card: String = "\"x\""
    ) -> String {
        "{\"id\":\(id),\"meta\":{\"time\":\(time)},\"card\":\(card),\"amount\":\(amount)}"
    }

    @Test(
        arguments: [
            ("2024-02-29T12:00:00Z", 1_709_208_000_000_000), ("2024-02-29T12:00:00.5+02:00", 1_709_200_800_500_000),
            ("2024-02-29t12:00:00.123456789-00:30", 1_709_209_800_123_456),
            ("1999-12-31T23:59:60Z", 946_684_800_000_000),
        ] as [(String, Int64)])
    func rfc3339(_ text: String, _ expected: Int64) throws {
        let decoder = try decoder()
        #expect(refusal(decoder, event(time: "\"\(text)\"")) == nil)
        #expect(decoder.time == expected)
    }

    @Test func theHostsZoneChangesNothing() throws {
        setenv("TZ", "Pacific/Kiritimati", 1)
        tzset()
        defer {
            unsetenv("TZ")
            tzset()
        }
        let decoder = try decoder()
        #expect(refusal(decoder, event()) == nil && decoder.time == 1_709_208_000_000_000)
    }

    @Test(
        arguments: [
            ("s", "1709208000", 1_709_208_000_000_000), ("s", "1709208000.25", 1_709_208_000_250_000),
            ("ms", "1709208000123", 1_709_208_000_123_000), ("us", "\"1709208000000001\"", 1_709_208_000_000_001),
            ("ns", "1709208000000001999", 1_709_208_000_000_001),
        ] as [(String, String, Int64)])
    func statedUnits(_ unit: String, _ time: String, _ expected: Int64) throws {
        let decoder = try decoder(unit: unit)
        #expect(refusal(decoder, event(time: time)) == nil)
        #expect(decoder.time == expected)
    }

    @Test(arguments: [
        ("", "empty event"), ("[1]", "no JSON object"), ("{\"id\":", "malformed"), ("\u{1F}gzip", "malformed"),
        ("{\"id\":\"a\",\"card\":\"x\",\"amount\":1}", "time: missing"),
        ("{\"id\":\"a\",\"meta\":{\"time\":\"2024-02-29T12:00:00Z\"},\"card\":\"x\"}", "amount: missing"),
        (
            "{\"id\":\"a\",\"meta\":{\"time\":\"2024-02-29T12:00:00Z\"},\"card\":\"x\",\"amount\":null}",
            "amount: missing"
        ),
        ("{\"id\":\"a\",\"id\":\"b\"}", "id: the key is repeated"),
        (
            "{\"id\":\"a\",\"meta\":{\"time\":\"2024-02-29T12:00:00Z\",\"time\":\"2024-02-29T12:00:00Z\"}}",
            "time: the key is repeated"
        ),
        ("{\"id\":\"a\",\"meta\":{},\"meta\":{}}", "the key is repeated"),
        ("{\"id\":\"\\ud800\"}", "malformed"),
    ])
    func refusedWithItsReason(_ json: String, _ reason: String) throws {
        let said = refusal(try decoder(), json)
        #expect(said?.contains(reason) == true, "\(said ?? "accepted")")
    }

    @Test(arguments: [
        (#""2024-02-30T00:00:00Z""#, "time"), (#""2024-02-29T12:00:00""#, "without a zone"),
        ("1709208000", "time is needed"),
        (#""yesterday""#, "time"), ("{}", "time is needed"), (#""1970-01-01T00:00:00Z""#, "not a time"),
    ])
    func badTimes(_ time: String, _ reason: String) throws {
        let said = refusal(try decoder(), event(time: time))
        #expect(said?.contains(reason) == true, "\(said ?? "accepted")")
    }

    @Test func aZonelessTimeIsUTCWhereThePipelineSaysSo() throws {
        let decoder = try decoder(extra: ", assume_utc: true")
        #expect(refusal(decoder, event(time: "\"2024-02-29T12:00:00\"")) == nil)
        #expect(decoder.time == 1_709_208_000_000_000)
    }

    @Test func treatmentOfNumbers() throws {
        let decoder = try decoder()
        let amount = 4
        for (text, expected) in [
            ("\"12.5\"", 12.5), ("9007199254740993", 9_007_199_254_740_992), ("true", 1), ("-0.0", 0), ("1e300", 1e300),
        ] {
            #expect(refusal(decoder, event(amount: text)) == nil)
            #expect(decoder.number(decoder.pipeline.columns.firstIndex { $0.name == "amount" } ?? amount) == expected)
        }
        #expect(refusal(decoder, event(amount: "\"NaN\"")) == "amount: missing")
        #expect(refusal(decoder, event(amount: "\"\"")) == "amount: missing")
        #expect(refusal(decoder, event(amount: "NaN"))?.contains("malformed") == true)
        #expect(refusal(decoder, event(amount: "1e999"))?.contains("range") == true)
        #expect(refusal(decoder, event(amount: "\"twelve\"")) == "amount: a number is needed")
        #expect(refusal(decoder, event(amount: "[1]")) == "amount: a number is needed")
    }

    @Test func integerIdsKeepTheirDigits() throws {
        let decoder = try decoder()
        #expect(refusal(decoder, event(id: "12345678901234567890123", card: "9007199254740993")) == nil)
        #expect(String(decoding: decoder.id, as: UTF8.self) == "12345678901234567890123")
        #expect(String(decoding: decoder.primaryEntity, as: UTF8.self) == "9007199254740993")
    }

    @Test func fieldsThatNobodyReadsDoNotMatter() throws {
        let decoder = try decoder()
        let body =
            event().dropLast()
            + ",\"big\":123456789012345678901234567890,\"x\":{\"id\":1,\"id\":2},\"deep\":\(String(repeating: "[", count: 900) + String(repeating: "]", count: 900))}"
        #expect(refusal(decoder, String(body)) == nil)
        #expect(refusal(decoder, "\u{FEFF}" + event()) == nil, "a byte order mark at the start is skipped")
        #expect(refusal(decoder, event() + " {}")?.contains("follow") == true)
    }

    @Test func hostileDocumentsAreRefused() throws {
        let decoder = try decoder()
        let limit = decoder.pipeline.limits.eventBytesMax
        for body in [String(repeating: "[", count: 5_000_000), "{\"id\":\(String(repeating: "[", count: 10_000))"] {
            #expect(refusal(decoder, body) != nil)
        }
        #expect(refusal(decoder, String(repeating: " ", count: limit + 1))?.contains("over the limit") == true)
        for bytes in [[0x7B, 0x22, 0xFF, 0x22, 0x3A, 0x31, 0x7D], [0], [0x1F, 0x8B, 8, 0, 0]] as [[UInt8]] {
            #expect(bytes.withUnsafeBytes { decoder.decode($0, readable: $0.count) } != nil)
        }
        // Escaped keys and values are read as what they mean.
        #expect(
            refusal(decoder, event().replacing("\"id\"", with: "\"\\u0069d\"").replacing("\"a\"", with: "\"\\u0041\""))
                == nil)
        #expect(String(decoding: decoder.id, as: UTF8.self) == "A")
    }

    @Test func mutatedEventsNeverCrash() throws {
        let decoder = try decoder()
        let original = Array(event(amount: "\"12.5\"").utf8)
        var random = SplitMix(state: 99)
        for _ in 0..<200_000 {
            var bytes = original
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let at = Int.random(in: 0..<bytes.count, using: &random)
                if Bool.random(using: &random) {
                    bytes[at] = UInt8.random(in: 0...255, using: &random)
                } else {
                    bytes.remove(at: at)
                }
            }
            bytes.withUnsafeBytes { _ = decoder.decode($0, readable: $0.count) }
        }
    }
}

@Suite struct PipelineTests {
    @Test func theCardPipelineIsSound() throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let pipeline = try Pipeline(path: root.appending(path: "pipelines/cards.yaml").path())
        #expect(pipeline.features.count >= 32 && pipeline.featureNames.count == pipeline.features.count)
        #expect(pipeline.model?.hasSuffix("models/cards.json") == true)
    }

    @Test(arguments: [
        ("pipeline: a b", 1, "pipeline", "is no name"),
        ("pipeline: p\nevents: {}", 2, "events", "unknown key"),
        ("pipeline: p\nevent: { id: id, time: { path: t } }", 2, "event.time", "never guessed"),
        ("pipeline: p\nevent: { id: id, time: { path: t, unit: minutes } }", 2, "event.time.unit", "rfc3339"),
        ("pipeline: p\nevent: { id: id, time: { path: t, unit: s } }\nentities: {}", 3, "entities", "at least one"),
        (
            "pipeline: p\nevent: { id: id, time: { path: t, unit: s } }\nentities: { c: { path: c } }\nfeatures:\n  - windows: { entity: c, over: [3m], compute: [count] }",
            5, "features[0].windows.over", "made of tiles"
        ),
        (
            "pipeline: p\nevent: { id: id, time: { path: t, unit: s } }\nentities: { c: { path: c } }\nfeatures:\n  - value: amont",
            5, "features[0].value", "no field of type number"
        ),
        ("pipeline: p\n  bad: [", 2, "", "indentation"),
    ])
    func mistakesAreToldWithPlaceAndRemedy(_ text: String, _ line: Int, _ field: String, _ words: String) {
        do {
            _ = try Pipeline(text: text, file: "f.yaml")
            Issue.record("accepted")
        } catch {
            #expect(error.line == line && error.field == field, "\(error)")
            #expect(error.description.contains(words), "\(error)")
        }
    }
}
