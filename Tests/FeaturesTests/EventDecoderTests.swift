import Features
import Foundation
import Testing

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
