import Changes
import Testing

@testable import Features

@Suite struct EntityTableTests {
    /// Against a dictionary: inserts and removals in any order, hashes that collide, growth in between.
    @Test func equalsADictionary() throws {
        let pipeline = try Pipeline(text: samplePipeline, file: "sample.yaml")
        let table = EntityTable(EntityLayout(pipeline, kind: 0, partitions: 1))
        var model: [Int: UnsafeMutableRawPointer] = [:]
        var random = SplitMix(state: 12)
        func withKey<Result>(_ id: Int, _ use: (UInt64, UnsafeRawBufferPointer) -> Result) -> Result {
            // Few different low bits: runs are long, and removals in their middle are the rule.
            Array("k\(id)".utf8).withUnsafeBytes { use(stableHash($0) & 0xFFFF_FFFF_0000_003F, $0) }
        }
        for _ in 0..<20_000 {
            let id = Int.random(in: 0..<700, using: &random)
            if let record = model[id] {
                #expect(withKey(id) { table.find($0, $1) } == record)
                if Bool.random(using: &random) {
                    table.remove(record)
                    model[id] = nil
                }
            } else {
                #expect(withKey(id) { table.find($0, $1) } == nil)
                model[id] = withKey(id) { table.insert($0, $1) }
            }
            #expect(table.count == model.count)
        }
        for (id, record) in model { #expect(withKey(id) { table.find($0, $1) } == record) }
    }
}
