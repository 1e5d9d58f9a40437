import Features
import Foundation
import Testing

@testable import Tideline

private let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

@Suite struct DocumentTests {
    @Test func theMinimalPipelineIsOneAndReadsItsEvent() throws {
        let text = try String(contentsOf: root.appending(path: "docs/pipelines.md"), encoding: .utf8)
        let yaml = try #require(text.firstMatch(of: /```yaml\n([\s\S]*?)```/)).1
        let event = try #require(text.firstMatch(of: /It reads `([^`]*)`/)).1
        let pipeline = try Pipeline(text: String(yaml), file: "docs/pipelines.md")
        #expect(yaml.split(separator: "\n").count == 10)
        #expect(
            pipeline.featureNames == ["buyer.count.1h", "buyer.total.mean.1h", "buyer.count.7d", "buyer.total.mean.7d"])
        let decoder = EventDecoder(pipeline)
        let bytes = Array(event.utf8)
        let refusal = bytes.withUnsafeBytes { decoder.decode($0, readable: $0.count) }
        #expect(refusal == nil)
    }

    @Test func everyKeyOfTheSamplesIsDocumented() throws {
        let text = try String(contentsOf: root.appending(path: "docs/pipelines.md"), encoding: .utf8)
        for key in [
            "latency_budget", "event_bytes", "future", "duplicate_ids", "duplicate_window", "entities_in_memory",
            "tail_vectors",
        ] {
            #expect(text.contains("`limits.\(key)`"), "\(key)")
        }
        for statistic in Pipeline.Statistic.allCases { #expect(text.contains("`\(statistic.rawValue)`")) }
        for unit in Pipeline.TimeUnit.allCases { #expect(text.contains("`\(unit.rawValue)`")) }
    }

    @Test(arguments: ["cards", "ulb"])
    func shippedPipelinesAreSound(_ name: String) throws {
        #expect(try !Pipeline(path: root.appending(path: "pipelines/\(name).yaml").path).features.isEmpty)
    }

    @Test(arguments: [("a", "a.b"), ("a.b", "a"), ("a.b", "a.b"), ("a.", "b"), ("", "b"), ("a..b", "c")])
    func pathsThatCollideAreRefused(_ id: String, _ time: String) {
        let text = """
            pipeline: x
            event: { id: "\(id)", time: { path: \(time), unit: s } }
            entities: { c: { path: card } }
            features: [{ since_last: c }]
            """
        #expect(throws: PipelineError.self) { try Pipeline(text: text, file: "x.yaml") }
    }
}
