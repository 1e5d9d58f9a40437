import Foundation
import HTTP
import Testing

@Suite struct WriterTests {
    private func written(_ body: (inout JSONWriter) -> Void) -> String {
        var json = JSONWriter()
        body(&json)
        return String(decoding: json.bytes, as: UTF8.self)
    }

    @Test func structure() {
        let text = written { json in
            json.beginObject()
            json.member("a", 1)
            json.key("b")
            json.beginArray()
            json.value(true)
            json.null()
            json.beginObject()
            json.endObject()
            json.value("x")
            json.endArray()
            json.key("c")
            json.raw("[1]".utf8)
            json.member("d", "y")
            json.endObject()
        }
        #expect(text == #"{"a":1,"b":[true,null,{},"x"],"c":[1],"d":"y"}"#)
    }

    @Test func escapes() throws {
        let hard = "\"\\/\n\r\t\u{8}\u{c}\u{0}\u{1f}\u{7f}é😀\u{2028}"
        let text = written { $0.value(hard) }
        #expect(text == "\"\\\"\\\\/\\n\\r\\t\\b\\f\\u0000\\u001f\u{7f}é😀\u{2028}\"")
        let back = try JSONSerialization.jsonObject(with: Data(text.utf8), options: .fragmentsAllowed) as? String
        #expect(back == hard)
        #expect(written { $0.value(utf8: [0x61, 0xFF, 0x62]) } == "\"a\u{FFFD}b\"")
        #expect(written { $0.value(utf8: Array("ok\"".utf8)) } == #""ok\"""#)
    }

    @Test func numbers() {
        #expect(written { $0.value(Int64.min) } == "-9223372036854775808")
        #expect(written { $0.value(UInt64.max) } == "18446744073709551615")
        #expect(written { $0.value(0) } == "0")
        #expect(written { $0.value(0.1) } == "0.1")
        #expect(written { $0.value(3.0) } == "3.0")
        #expect(written { $0.value(-0.0) } == "-0.0")
        #expect(written { $0.value(Float(0.1)) } == "0.1")
        #expect(written { $0.value(Double.nan) } == "null")
        #expect(written { $0.value(-Double.infinity) } == "null")
        #expect(written { $0.value(Float.infinity) } == "null")
        #expect(written { $0.number(0.123456, places: 3) } == "0.123")
        #expect(written { $0.number(-1.9996, places: 3) } == "-2.000")
        #expect(written { $0.number(2.5, places: 0) } == "3")
        #expect(written { $0.number(-0.04, places: 1) } == "0.0")
        #expect(written { $0.number(.nan, places: 2) } == "null")
        #expect(written { $0.number(1e300, places: 2) } == "1e+300")
    }

    @Test func doublesReadBackAsTheyWere() {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            let value = Double(bitPattern: generator.next())
            guard value.isFinite else { continue }
            #expect(Double(written { $0.value(value) }) == value)
            let single = Float(bitPattern: UInt32(truncatingIfNeeded: generator.next()))
            if single.isFinite { #expect(Float(written { $0.value(single) }) == single) }
        }
        for value in [1e15, 1e15 - 1, -123456789.0, Double.leastNonzeroMagnitude, Double.greatestFiniteMagnitude, 1e16]
        {
            #expect(Double(written { $0.value(value) }) == value)
        }
    }

    @Test func problemsAreJSON() throws {
        var json = JSONWriter()
        Problem(
            status: 422, detail: "field \"amount\"\n", type: "https://example.org/p",
            members: [
                ("line", .integer(3)), ("status", .string("not me")), ("ratio", .number(.nan)),
                ("all", .strings(["a", "b"])),
            ]
        ).write(to: &json)
        let object = try #require(
            try JSONSerialization.jsonObject(with: Data(json.bytes)) as? [String: Any])
        #expect(object["status"] as? Int == 422)
        #expect(object["title"] as? String == "Unprocessable Content")
        #expect(object["detail"] as? String == "field \"amount\"\n")
        #expect(object["all"] as? [String] == ["a", "b"])
        #expect(object["ratio"] is NSNull)
    }

    @Test func metricsText() {
        let metrics = Metrics()
        let counter = metrics.counter("a_total", help: "All \\ of\nit.", labels: [("x", "q\"u\\o\nte")])
        counter.increment(by: 3)
        #expect(metrics.counter("a_total", help: "", labels: [("x", "q\"u\\o\nte")]) === counter)
        metrics.gauge("b", help: "Now.").set(1.5)
        metrics.gauge("c", help: "Asked.") { -.infinity }
        let histogram = metrics.histogram("d_seconds", help: "Time.", labels: [("r", "1")], buckets: [0.1, 1])
        for value in [0.05, 0.1, 0.5, 3, .nan] { histogram.observe(value) }
        #expect(
            String(decoding: metrics.render(), as: UTF8.self) == #"""
                # HELP a_total All \\ of\nit.
                # TYPE a_total counter
                a_total{x="q\"u\\o\nte"} 3
                # HELP b Now.
                # TYPE b gauge
                b 1.5
                # HELP c Asked.
                # TYPE c gauge
                c -Inf
                # HELP d_seconds Time.
                # TYPE d_seconds histogram
                d_seconds_bucket{r="1",le="0.1"} 2
                d_seconds_bucket{r="1",le="1"} 3
                d_seconds_bucket{r="1",le="+Inf"} 5
                d_seconds_sum{r="1"} 3.65
                d_seconds_count{r="1"} 5

                """#)
    }

    @Test func figuresFromManyThreads() {
        let metrics = Metrics()
        let counter = metrics.counter("n_total", help: "N.")
        let gauge = metrics.gauge("g", help: "G.")
        let histogram = metrics.histogram("h", help: "H.", buckets: [1])
        inParallel(8) { _ in
            for _ in 0..<10_000 {
                counter.increment()
                gauge.add(1)
                histogram.observe(1)
            }
        }
        #expect(counter.value == 80_000 && gauge.value == 80_000)
        #expect(histogram.sum == 80_000 && histogram.count == 80_000)
    }
}
