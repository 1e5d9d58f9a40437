import Foundation
import Testing

@testable import Tideline

/// A file in the temporary folder that goes with its owner.
final class TemporaryFile {
    let path = FileManager.default.temporaryDirectory.appending(path: "tideline-\(UUID().uuidString)").path

    init(_ bytes: [UInt8]) throws { try Data(bytes).write(to: URL(filePath: path)) }

    convenience init(_ text: String) throws { try self.init(Array(text.utf8)) }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}

private func records(_ bytes: [UInt8], separator: UInt8 = 44) throws -> [String] {
    let file = try TemporaryFile(bytes)
    let reader = CSVReader(try InputBytes(path: file.path), separator: separator)
    var result: [String] = []
    while true {
        switch try reader.next() {
        case .end: return result
        case .broken(let line, let reason): result.append("broken \(line): \(reason)")
        case .fields:
            result.append(
                reader.fields.indices.map { String(decoding: reader[$0], as: UTF8.self) }.joined(separator: "|"))
        }
    }
}

private func events(_ text: String, _ change: (inout ReplaySource.Options) -> Void = { _ in }) throws -> [String] {
    let file = try TemporaryFile(text)
    var options = ReplaySource.Options()
    options.timeField = "time"
    change(&options)
    return try allRows(of: ReplaySource(InputBytes(path: file.path), options: options))
}

/// Events as text, refusals with their reason.
func allRows(of source: ReplaySource) throws -> [String] {
    var result: [String] = []
    while true {
        switch try source.next() {
        case .end: return result
        case .refused(let reason): result.append("refused: \(reason)")
        case .event: result.append(String(decoding: source.event, as: UTF8.self))
        }
    }
}

@Suite struct CSVTests {
    @Test(arguments: [
        ("a,b\n1,2\n", ["a|b", "1|2"]),
        ("a,b\r\n1,2", ["a|b", "1|2"]),
        ("\u{FEFF}\"a\",b\n", ["a|b"]),
        ("\"a,b\",c\n", ["a,b|c"]),
        ("\"a \"\"b\"\"\",\"\"\n", ["a \"b\"|"]),
        ("\"two\nlines\",x\r\n\"two\r\nmore\",y\n", ["two\nlines|x", "two\r\nmore|y"]),
        ("a,\n,\n", ["a|", "|"]),
        ("\n\na\n\n", ["a"]),
        ("\"\"\n", [""]),
        ("a\"b,c\n", ["a\"b|c"]),
        ("a\rb,c\n", ["a\rb|c"]),
        ("", []),
        ("\u{FEFF}", []),
    ])
    func recordsAreRead(_ text: String, _ expected: [String]) throws {
        #expect(try records(Array(text.utf8)) == expected)
    }

    @Test func brokenRecordsAreToldAndSkipped() throws {
        let read = try records(Array("a,b\n\"x\"y,1\n\"p\nq\",2\n\"open,3\n".utf8))
        #expect(read.count == 4 && read[0] == "a|b" && read[2] == "p\nq|2")
        #expect(read[1].hasPrefix("broken 2: bytes follow a closing quote"))
        #expect(read[3].hasPrefix("broken 5: a quote is not closed"))
    }

    @Test func piecesOfTheFileMayEndAnywhere() throws {
        // Records that cross the buffer's end, in quotes and out of them.
        var text: [UInt8] = []
        var expected: [String] = []
        for index in 0..<40_000 {
            text.append(contentsOf: "\(index),\"q \"\"\(index)\"\"\n\",plain\r\n".utf8)
            expected.append("\(index)|q \"\(index)\"\n|plain")
        }
        #expect(text.count > 1 << 19)
        #expect(try records(text) == expected)
    }

    @Test func otherSeparators() throws {
        #expect(try records(Array("a;b,c\n".utf8), separator: 59) == ["a|b,c"])
        #expect(try records(Array("a\tb\n".utf8), separator: 9) == ["a|b"])
    }

    @Test func gzipIsReadAndDamageIsTold() throws {
        // "a,b\n1,2\n", by gzip.
        let packed: [UInt8] = [
            0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 2, 0xFF, 0x4B, 0xD4, 0x49, 0xE2, 0x32, 0xD4, 0x31, 0xE2, 2, 0, 0x7B, 7, 0x97,
            0x0A,
            8, 0, 0, 0,
        ]
        #expect(try records(packed) == ["a|b", "1|2"])
        #expect(try records(packed + packed) == ["a|b", "1|2", "a|b", "1|2"])
        #expect(throws: InputError.self) { try records(packed.dropLast(6)) }
        #expect(throws: InputError.self) { try InputBytes(path: "/") }
        #expect(throws: InputError.self) { try InputBytes(path: "/nowhere") }
    }
}

@Suite struct ReplaySourceTests {
    @Test func cellsBecomeJSON() throws {
        let read = try events("id,time,x\n007,1.50,-2e3\n\"8\",,\"\"\nn\\\"o,NaN,\"a\tb\"\n")
        #expect(
            read == [
                #"{"id":"007","time":1.50,"x":-2e3}"#, #"{"id":"8","x":""}"#,
                #"{"id":"n\\\"o","time":"NaN","x":"a\u0009b"}"#,
            ])
    }

    @Test(arguments: ["0", "-0", "10", "1.0", "12345678901234567890", "1e5", "1E-5", "-0.5e+10"])
    func numbersStandAsWritten(_ text: String) { #expect(JSONBytes.isNumber(Array(text.utf8)[...])) }

    @Test(arguments: ["", "-", "01", "+1", ".5", "5.", "1e", "1e+", "0x1", "1 ", "NaN", "Infinity", "1_000"])
    func whatIsNoNumberIsAText(_ text: String) { #expect(!JSONBytes.isNumber(Array(text.utf8)[...])) }

    @Test func fieldsAreAdded() throws {
        let read = try events("time,v\n0,1\n172792.5,2\n") {
            $0.idField = "id"
            $0.constants = [("card", "all"), ("n", "3")]
            $0.timeBase = 1_377_993_600_000_000
        }
        #expect(
            read == [
                #"{"id":"row-1","card":"all","n":3,"time":"2013-09-01T00:00:00.000000Z","v":1}"#,
                #"{"id":"row-2","card":"all","n":3,"time":"2013-09-02T23:59:52.500000Z","v":2}"#,
            ])
    }

    @Test func anotherColumnGivesTheTime() throws {
        let read = try events("time,when\nold,5\n") { $0.timeColumn = "when" }
        #expect(read == [#"{"time":5}"#])
        #expect(throws: UsageError.self) { try events("a,b\n") { $0.timeColumn = "when" } }
    }

    @Test func linesOfJSONStand() throws {
        let text = "{\"a\":1}\r\n\n  {\"a\":2}\n{}\nno object\n{\"a\":3}"
        #expect(try events(text) == ["{\"a\":1}", "  {\"a\":2}", "{}", "no object", "{\"a\":3}"])
        let added = try events(text) { $0.idField = "id" }
        #expect(
            added == [
                #"{"id":"row-1","a":1}"#, #"{"id":"row-2","a":2}"#, #"{"id":"row-3"}"#, "no object",
                #"{"id":"row-5","a":3}"#,
            ])
        #expect(throws: UsageError.self) { try events(text) { $0.timeBase = 0 } }
    }

    @Test func raggedRecordsAndBadHeaders() throws {
        let read = try events("a,b\n1\n1,2,3\n1,2\n")
        #expect(read[0].contains("line 2: 1 cells where the header has 2"))
        #expect(read[1].contains("line 3: 3 cells"))
        #expect(read[2] == #"{"a":1,"b":2}"#)
        #expect(throws: InputError.self) { try events("a,a\n") }
        #expect(throws: InputError.self) { try events("a,\n") }
        #expect(throws: InputError.self) { try events("") }
    }
}

@Suite struct ScoreCheckTests {
    @Test func ranksAndSteps() throws {
        let perfect = try #require(ScoreCheck.quality([(0.9, true), (0.8, true), (0.1, false)]))
        #expect(perfect.auc == 1 && perfect.averagePrecision == 1)
        let ties = try #require(ScoreCheck.quality([(0.5, true), (0.5, false), (0.5, false), (0.5, true)]))
        #expect(ties.auc == 0.5 && ties.averagePrecision == 0.5)
        // Of four pairs three are in order; precision 1 at the first hit, 2/3 at the second.
        let mixed = try #require(ScoreCheck.quality([(0.9, true), (0.7, false), (0.6, true), (0.2, false)]))
        #expect(mixed.auc == 0.75 && abs(mixed.averagePrecision - (0.5 + 0.5 * 2 / 3)) < 1e-12)
        #expect(ScoreCheck.quality([(0.9, true)]) == nil && ScoreCheck.quality([]) == nil)
    }
}
