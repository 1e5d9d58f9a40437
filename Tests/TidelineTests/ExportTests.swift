import Features
import Foundation
import Testing

@testable import Tideline

private let sample = """
    pipeline: sample
    event: { id: id, time: { path: t, unit: s } }
    entities: { card: { path: card } }
    fields:
      amount: { type: number }
      kind: { type: text }
    features:
      - value: amount
      - windows: { entity: card, of: amount, over: [1h], compute: [count, mean] }
    """

private func table(_ events: String, _ options: TableExport.Options) throws -> (lines: [String], export: TableExport) {
    let pipeline = try Pipeline(text: sample, file: "sample.yaml")
    let input = try TemporaryFile(events)
    let output = try TemporaryFile("")
    let export = try TableExport(
        pipeline, from: ReplaySource(InputBytes(path: input.path), options: .init()),
        to: OutputFile(path: output.path), options)
    try export.run {}
    let text = try String(contentsOfFile: output.path, encoding: .utf8)
    return (text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init), export)
}

@Suite struct ExportTests {
    let events = """
        {"id":"a","t":1700000000,"card":"x","amount":2,"kind":"fraud"}
        {"id":"b,1","t":1700000060,"card":"x","amount":4}
        {"id":"c","t":1700000061,"card":"x","kind":"honest"}
        {"id":"a","t":1700000062,"card":"x","amount":9}
        no event
        {"id":"d","t":1700000063,"card":"y","amount":0.1,"kind":"fraud"}
        """

    @Test func rowsAreWhatTheAssemblerMakes() throws {
        let (lines, export) = try table(
            events, .init(label: "kind", rule: LabelRule("=fraud"), fields: ["card", "kind"]))
        #expect(
            lines == [
                "id,time,label,field.card,field.kind,amount,card.count.1h,card.amount.mean.1h",
                "a,1700000000000000,1,x,fraud,2.0,1.0,2.0",
                "\"b,1\",1700000060000000,,x,,4.0,2.0,3.0",
                "c,1700000061000000,0,x,honest,,3.0,3.0",
                "d,1700000063000000,1,y,fraud,0.1,1.0,0.1",
                "",
            ])
        #expect(export.rows == 4 && export.duplicates == 1 && export.refused == 1)
    }

    @Test func aSampleIsOfTheSameRows() throws {
        let many = (0..<4000).map { #"{"id":"e\#($0)","t":\#(1_700_000_000 + $0),"card":"x","amount":1}"# }
        let text = many.joined(separator: "\n")
        let whole = try table(text, .init(rule: LabelRule(">0"))).lines
        let part = try table(text, .init(rule: LabelRule(">0"), sample: 0.25)).lines
        #expect(whole.count == 4002 && (800...1200).contains(part.count))
        #expect(Set(part).isSubset(of: Set(whole)), "windows see every event")
    }

    @Test func labelRules() throws {
        #expect(try LabelRule(">0").holds(for: 1) && !LabelRule(">0").holds(for: 0))
        #expect(
            try LabelRule(">=1").holds(for: "1") && LabelRule("<=1").holds(for: 1) && !LabelRule("<1").holds(for: 1))
        #expect(try LabelRule("=fraud").holds(for: "fraud") && !LabelRule("=fraud").holds(for: 1))
        #expect(try LabelRule("=1").holds(for: 1.0))
        for bad in ["", "fraud", ">x", "~1"] { #expect(throws: UsageError.self) { try LabelRule(bad) } }
        #expect(throws: UsageError.self) { try table(events, .init(label: "nothing", rule: LabelRule(">0"))) }
    }
}
