import Foundation
import Testing

@testable import Scoring

@Suite(.timeLimit(.minutes(5)))
struct ModelFileTests {
    private func refusal(_ text: String) -> ModelError? { refusal(Array(text.utf8)) }

    private func refusal(_ bytes: [UInt8]) -> ModelError? {
        do throws(ModelError) {
            _ = try Forest(bytes: bytes)
            return nil
        } catch {
            return error
        }
    }

    @Test(arguments: [
        "0.25", "2.5E-1", "\"2.5E-1\"", "\"[2.5E-1]\"", "[0.25]", "\"0.25\"",
    ])
    func baseScoreInEveryForm(_ base: String) throws {
        #expect(try Forest(bytes: Array(stump(base: base).utf8)).scored([0]).outputs == [1.25])
    }

    @Test func baseScoresOneAClass() throws {
        var shape = SyntheticModel(features: 2, trees: 3, depth: 0, groups: 3, objective: "multi:softmax")
        shape.base = "\"[0E0,9E0,1E0]\""
        #expect(try Forest(bytes: shape.bytes()).scored([0, 0]).outputs == [1])
        shape.base = "\"[0E0,9E0]\""
        let error = try #require(refusal(shape.bytes()))
        #expect(error.code == .structure && error.reason.contains("base_score has 2 values for 3 outputs"))
    }

    @Test func impossibleBaseScoresAreRefused() {
        #expect(refusal(stump(base: "\"1E0\"", objective: "binary:logistic"))?.reason.contains("base_score") == true)
        #expect(refusal(stump(base: "\"0E0\"", objective: "count:poisson"))?.reason.contains("base_score") == true)
        #expect(refusal(stump(base: "\"x\""))?.code == .malformed)
        #expect(refusal(stump(base: "NaN"))?.code == .structure)
    }

    @Test func unknownKeysAreSkippedAtAnyDepth() throws {
        let extra = "\"new\":{\"a\":[1,{\"b\":[[],{},NaN,-Infinity,\"\\ud83d\\ude00\"]}],\"b\":null},"
        #expect(try Forest(bytes: Array(stump(extra: extra).utf8)).scored([0]).outputs == [1])
        #expect(try Forest(bytes: [0xef, 0xbb, 0xbf] + Array(stump().utf8)).scored([0]).outputs == [1])
    }

    @Test func whatIsNotKnownIsRefusedByName() throws {
        #expect(refusal(stump(objective: "my:objective"))?.reason.contains("my:objective") == true)
        let other = stump().replacingOccurrences(of: "\"name\":\"gbtree\"", with: "\"name\":\"gbforest\"")
        #expect(refusal(other)?.reason.contains("gbforest") == true)
        let cats = stump().replacingOccurrences(
            of: "\"tree_info\"", with: "\"cats\":{\"enc\":[{\"type\":2}]},\"tree_info\"")
        #expect(refusal(cats)?.reason.contains("cats") == true)
        let future = stump().replacingOccurrences(of: "[3,2,0]", with: "[4,0,0]")
        #expect(refusal(future)?.reason.contains("4.0.0") == true)
        let output = try ModelFile.read("\(Fixture.folder)/3-multi-output.json")
        #expect(refusal(output)?.reason.contains("multi-output trees") == true)
    }

    @Test func otherFilesAreRefusedWithTheReason() {
        #expect(refusal("booster[0]:\n0:[f0<0.5] yes=1,no=2,missing=1\n")?.reason.contains("text dump") == true)
        #expect(refusal("[{\"nodeid\":0}]")?.reason.contains("dump") == true)
        let binary = refusal([0x00, 0x00, 0x00, 0x3f, 0x04, 0, 0, 0] + [UInt8](repeating: 0, count: 200))
        #expect(binary?.reason.contains("old binary") == true && binary?.remedy.contains("save_model") == true)
        #expect(refusal([0x80, 0x04, 0x95])?.reason.contains("pickle") == true)
        #expect(refusal([0x1f, 0x8b])?.reason.contains("compressed") == true)
        #expect(refusal("")?.reason.contains("empty") == true)
        #expect(refusal("{}")?.code == .malformed)
        #expect(refusal("{\"Model\":{},\"Config\":{}}")?.reason.contains("snapshot") == true)
    }

    @Test func treesThatContradictThemselvesAreRefused() {
        let broken = [
            stump(left: "[1,2,-1]", right: "[2,2,-1]"),  // two parents
            stump(left: "[1,0,-1]", right: "[2,2,-1]"),  // a cycle
            stump(left: "[0,-1,-1]", right: "[2,-1,-1]"),  // its own child
            stump(left: "[1,-1,-1]", right: "[3,-1,-1]"),  // out of range
            stump(left: "[1,-1,-1]", right: "[-1,-1,-1]"),  // one child
            stump(left: "[1,-1,-1]", right: "[-5,-1,-1]"),
            stump(left: "[1,-1]"),  // arrays of different lengths
            stump(indices: "[1,0,0]"), stump(indices: "[-1,0,0]"),
            stump(threshold: "NaN"), stump(leaf: "NaN"), stump(leaf: "Infinity"),
        ]
        for text in broken { #expect(refusal(text)?.code == .structure, "\(text)") }
        // What pruning left behind means nothing, whatever it holds.
        #expect(refusal(stump(left: "[-1,0,7]", right: "[-1,1,9]", indices: "[0,99,4294967295]")) == nil)
    }

    @Test func nestingIsBounded() {
        #expect(refusal("{\"a\":" + String(repeating: "[", count: 5_000_000))?.reason.contains("nested") == true)
        #expect(refusal(Array("{i".utf8) + [1, 97] + [UInt8](repeating: 91, count: 1_000_000))?.code == .malformed)
    }

    @Test func announcedSizesNeverAllocate() {
        let huge: [UInt8] = [0x4c, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
        for head in ["{i\u{1}a[$d#", "{i\u{1}a[$L#", "{i\u{1}a[$Z#", "{i\u{1}a[#", "{i\u{1}a{#", "{i\u{1}aS", "{"] {
            #expect(refusal(Array(head.utf8) + huge)?.code == .malformed)
        }
        let negative: [UInt8] = [0x69, 0xff]
        #expect(refusal(Array("{i\u{1}a[$d#".utf8) + negative)?.reason.contains("negative") == true)
    }

    @Test func everyMarkerOfUBJ() throws {
        func read(_ body: [UInt8]) throws -> ModelValue { try UBJModelReader.read(body) }
        func bytes(_ text: String, _ rest: UInt8...) -> [UInt8] { Array(text.utf8) + rest }
        #expect(try ModelNode(value: read(bytes("i", 0xfe)), path: "").integer() == -2)
        #expect(try ModelNode(value: read(bytes("U", 0xfe)), path: "").integer() == 254)
        #expect(try ModelNode(value: read(bytes("I", 0xff, 0xfe)), path: "").integer() == -2)
        #expect(try ModelNode(value: read(bytes("l", 0, 1, 0, 0)), path: "").integer() == 65_536)
        #expect(try ModelNode(value: read(bytes("L", 0, 0, 0, 1, 0, 0, 0, 0)), path: "").integer() == 1 << 32)
        #expect(try ModelNode(value: read(bytes("[d", 0x3f, 0x80, 0, 0) + bytes("]")), path: "").floats() == [1])
        let double = bytes("[D", 0x3f, 0xf0, 0, 0, 0, 0, 0, 0) + bytes("]")
        #expect(try ModelNode(value: read(double), path: "").floats() == [1])
        #expect(try ModelNode(value: read(bytes("Ci") + []), path: "").string() == "i")
        #expect(try ModelNode(value: read(bytes("Si", 2) + bytes("ab")), path: "").string() == "ab")
        #expect(try ModelNode(value: read(bytes("Hi", 3) + bytes("123")), path: "").integer() == 123)
        #expect(try ModelNode(value: read(bytes("[TFNT]")), path: "").integers() == [1, 0, 1])
        #expect(try ModelNode(value: read(bytes("[$i#i", 3, 1, 0xff, 3)), path: "").integers() == [1, -1, 3])
        #expect(try ModelNode(value: read(bytes("[$I#U", 1, 1, 0)), path: "").integers() == [256])
        #expect(try ModelNode(value: read(bytes("[$d#i", 0)), path: "").floats() == [])
        #expect(try ModelNode(value: read(bytes("[#i", 0)), path: "").floats() == [])
        let mixed = bytes("[#i", 2) + bytes("U", 7) + bytes("i", 8)
        #expect(try ModelNode(value: read(mixed), path: "").integers() == [7, 8])
        #expect(try read(bytes("{$U#i", 1) + bytes("i", 1) + bytes("k", 9))["k"]?.kind == "a number")
        #expect(try read(bytes("{#i", 0)).isEmpty)
        #expect(throws: ModelError.self) { try read(bytes("[$d]")) }
        #expect(throws: ModelError.self) { try read(bytes("x")) }
        #expect(throws: ModelError.self) { try read(bytes("Z") + bytes("Z")) }
    }

    @Test func jsonIsStrictBeyondBareNumbers() {
        for text in [
            "{\"a\":01}", "{\"a\":1,}", "{\"a\" 1}", "{\"a\":\"\\x\"}", "{\"a\":\"\\ud800\"}",
            "{\"a\":tru}", "{\"a\":-NaN}", "{} x", "{\"a\":\"\u{1}\"}", "{\"a\":1.2.3}",
            "{\"a",
        ] {
            #expect(refusal(text)?.code == .malformed, "\(text)")
        }
        #expect(refusal(Array("{\"a\":\"".utf8) + [0xff] + Array("\"}".utf8))?.code == .malformed)
    }

    @Test(arguments: Fixture.all)
    func mutatedFilesNeverCrash(_ fixture: Fixture) throws {
        let original = try fixture.bytes()
        var random = SplitMix(state: 0x7ed1)
        let rows = try fixture.rows()
        var loaded = 0
        for _ in 0..<300 {
            var bytes = original
            for _ in 0...random.below(3) {
                let place = random.below(bytes.count)
                switch random.below(6) {
                case 0: bytes[place] = UInt8(random.below(256))
                case 1: bytes[place] ^= 1 << UInt8(random.below(8))
                case 2: bytes.remove(at: place)
                case 3: bytes.insert(UInt8(random.below(256)), at: place)
                case 4: bytes.removeSubrange(place..<min(bytes.count, place + random.below(40)))
                default: bytes[place] = Array("0123456789-[]{},\"NaeE.".utf8)[random.below(22)]
                }
                if bytes.isEmpty { bytes = [123] }
            }
            guard let forest = try? Forest(bytes: bytes) else { continue }
            loaded += 1
            guard forest.featureCount == 4, forest.outputCount < 100 else { continue }
            _ = forest.scored(rows)
            _ = forest.scored(rows, batch: 1)
            _ = forest.reasons(row: rows, top: 3)
        }
        #expect(loaded < 300)
    }

    @Test func cutFilesNeverCrash() throws {
        for fixture in Fixture.all.prefix(6) {
            let bytes = try fixture.bytes()
            for length in stride(from: 0, to: bytes.count, by: 37) {
                #expect(refusal(Array(bytes.prefix(length))) != nil)
            }
        }
    }

    @Test func aMissingFileIsNamed() {
        #expect(throws: ModelError.self) { try Forest.load(path: "/nowhere/model.json") }
        #expect(throws: ModelError.self) { try Forest.load(path: "/") }
    }
}
