import Features
import Foundation
import Testing

/// Vectors that events bring.
@Suite struct EventVectorTests {
    let decoder: EventDecoder

    init() throws {
        decoder = EventDecoder(
            try Pipeline(
                text: """
                    pipeline: p
                    event: { id: id, time: { path: t, unit: s } }
                    entities: { item: { path: item } }
                    embedding: { field: doc.vector, dimension: 3, metric: cosine }
                    features: [ { since_last: [item] } ]
                    """, file: "p.yaml"))
    }

    private func refusal(_ doc: String) -> String? {
        let json = "{\"id\":\"a\",\"t\":1700000000,\"item\":\"x\"\(doc)}"
        return Array(json.utf8).withUnsafeBytes { decoder.decode($0, readable: $0.count)?.description }
    }

    @Test func numbersArriveAsTheyStand() {
        #expect(decoder.pipeline.embedding.dimension == 3 && decoder.pipeline.embedding.metric == .cosine)
        #expect(refusal(",\"doc\":{\"vector\":[1, -2.5e-3,0]}") == nil)
        #expect(Array(decoder.vector) == [1, -2.5e-3, 0])
        // The next event's vector is its own, or none.
        #expect(refusal(",\"doc\":{\"vector\":[4,5,6]}") == nil && Array(decoder.vector) == [4, 5, 6])
        for absent in ["", ",\"doc\":{}", ",\"doc\":null", ",\"doc\":{\"vector\":null}"] {
            #expect(refusal(absent) == nil && decoder.vector.isEmpty, "\(absent)")
        }
    }

    @Test(arguments: [
        ("[1,2]", "embedding: exactly 3 numbers are needed"), ("[]", "embedding: exactly 3 numbers are needed"),
        ("[1,2,3,4]", "embedding: exactly 3 numbers are needed"),
        ("[0,0,-0.0]", "embedding: a vector of zero length has no neighbours"),
        ("[1,2,1e39]", "embedding: not a number within range"),
        ("[1,2,1e400]", "embedding: not a number within range"),
        ("[1,2,null]", "embedding: an array of 3 numbers is needed"),
        ("[1,\"2\",3]", "embedding: an array of 3 numbers is needed"),
        ("[1,2,[3]]", "embedding: an array of 3 numbers is needed"),
        ("\"abc\"", "embedding: an array of 3 numbers is needed"), ("7", "embedding: an array of 3 numbers is needed"),
        ("[1,2,NaN]", "malformed"), ("[1,2,3", "malformed"), ("[1 2 3]", "malformed"),
    ])
    func othersAreRefusedWithTheirReason(_ vector: String, _ reason: String) throws {
        let said = try #require(refusal(",\"doc\":{\"vector\":\(vector)}"), "accepted")
        #expect(said.contains(reason) || reason == "malformed" && said.contains("embedding"), "\(said)")
    }

    @Test func aRepeatedVectorIsRefused() {
        #expect(refusal(",\"doc\":{\"vector\":[1,2,3],\"vector\":[1,2,3]}") == "embedding: the key is repeated")
    }
}
