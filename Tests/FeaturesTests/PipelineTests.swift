import Features
import Foundation
import Testing

@Suite struct PipelineTests {
    private let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    @Test(arguments: ["cards", "ulb", "vectors"])
    func thePipelinesThatShipAreSound(_ name: String) throws {
        #expect(try Pipeline(path: root.appending(path: "pipelines/\(name).yaml").path()).name == name)
    }

    @Test func theCardPipelineIsSound() throws {
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
        (
            "pipeline: p\nevent: { id: id, time: { path: t, unit: s } }\nentities: { c: { path: c } }\nembedding: { field: v }",
            4, "embedding", "go together"
        ),
        (
            "pipeline: p\nevent: { id: id, time: { path: t, unit: s } }\nentities: { c: { path: c } }\nembedding: { field: v, dimension: 2000 }",
            4, "embedding.dimension", "from 2 to 1536"
        ),
        (
            "pipeline: p\nevent: { id: id, time: { path: t, unit: s } }\nentities: { c: { path: c } }\nembedding: { metric: l3 }",
            4, "embedding.metric", "inner_product"
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
