import Foundation
import Testing

@testable import Scoring

@Suite struct BindingTests {
    private let named = SyntheticModel(features: 3, names: ["amount", "caf\u{e9}", "hour"])

    @Test func namesBindInAnyOrder() throws {
        let forest = try Forest(bytes: named.bytes())
        #expect(try forest.bind(to: ["hour", "amount", "caf\u{e9}"]) == [1, 2, 0])
    }

    @Test(arguments: [
        (["hour", "amount"], "missing"),
        (["hour", "amount", "caf\u{e9}", "more"], "`more`"),
        (["hour", "amount", "amount", "caf\u{e9}"], "twice"),
        (["hour", "Amount", "caf\u{e9}"], "missing"),
        // The same letters, other bytes.
        (["hour", "amount", "cafe\u{301}"], "missing"),
    ])
    func otherNamesRefuse(_ names: [String], _ reason: String) throws {
        let forest = try Forest(bytes: named.bytes())
        let error = #expect(throws: ModelError.self) { try forest.bind(to: names) }
        #expect(error?.code == .features)
        #expect(error?.reason.contains(reason) == true)
    }

    @Test func aModelThatRepeatsANameBindsToNothing() throws {
        let forest = try Forest(bytes: SyntheticModel(features: 2, names: ["a", "a"]).bytes())
        #expect(throws: ModelError.self) { try forest.bind(to: ["a", "b"]) }
        #expect(throws: ModelError.self) { try forest.bind(to: ["a"]) }
    }

    @Test func withoutNamesTheOrderIsExplicit() throws {
        let forest = try Forest(bytes: SyntheticModel(features: 3).bytes())
        #expect(throws: ModelError.self) { try forest.bind(to: ["a", "b", "c"]) }
        #expect(try forest.bind(to: ["a", "b", "c"], explicitOrder: true) == [0, 1, 2])
        #expect(throws: ModelError.self) { try forest.bind(to: ["a", "b"], explicitOrder: true) }
    }

    @Test(arguments: Fixture.all)
    func reasonsAreXGBoostsApproximateContributions(_ fixture: Fixture) throws {
        let file = ModelNode(value: try JSONModelReader.read(try ModelFile.read(fixture.rowsPath)), path: "")
        guard let table = file.optional("contributions") else { return }
        let forest = try Forest.load(path: fixture.path)
        let golden = try GoldenRows.load(path: fixture.rowsPath)
        for (row, wanted) in zip(golden.rows, try table.elements()) {
            let contributions = try wanted.floats()
            let reasons = forest.reasons(row: row, top: 99)
            for (feature, want) in contributions.dropLast().enumerated() {
                let got = reasons.first { $0.feature == feature }?.contribution ?? 0
                #expect(abs(got - want) < 1e-5)
            }
            #expect(reasons.map { abs($0.contribution) } == reasons.map { abs($0.contribution) }.sorted(by: >))
            #expect(forest.reasons(row: row, top: 2) == Array(reasons.prefix(2)))
        }
    }

    @Test func categoriesThatCanBeNoneAreCounted() throws {
        let forest = try Forest.load(path: "\(Fixture.folder)/3-categorical.json")
        // No split of this model asks for the other categorical column.
        #expect(forest.categoricalFeatures == [3])
        #expect(forest.invalidCategories(row: [-5, -5, -1, 1e9]) == 1)
        #expect(forest.invalidCategories(row: [-5, -5, -1, -1]) == 1)
        #expect(forest.invalidCategories(row: [-5, -5, -0.0, .nan]) == 0)
        #expect(forest.invalidCategories(row: [-5, -5, 16_777_215, 16_777_216]) == 1)
    }

    @Test func goldenRowsThatDifferRefuse() throws {
        let forest = try Forest(bytes: Array(stump().utf8))
        let right = "{\"rows\":[[0],[null],[1]],\"outputs\":[[1],[1],[2]]}"
        try forest.check(golden: try GoldenRows(bytes: Array(right.utf8)))
        for text in [
            "{\"rows\":[[0]],\"outputs\":[[1.00001]]}", "{\"rows\":[[0]],\"outputs\":[[NaN]]}",
            "{\"rows\":[[0,1]],\"outputs\":[[1]]}", "{\"rows\":[[0]],\"outputs\":[[1,2]]}",
        ] {
            let golden = try GoldenRows(bytes: Array(text.utf8))
            let error = #expect(throws: ModelError.self) { try forest.check(golden: golden) }
            #expect(error?.code == .golden)
        }
        #expect(throws: ModelError.self) { try GoldenRows(bytes: Array("{\"rows\":[[0]],\"outputs\":[]}".utf8)) }
    }

    @Test func aDescriptionSaysWhatAFileIs() throws {
        let forest = try Forest.load(path: "\(Fixture.folder)/3-squarederror.json")
        let text = forest.description.text
        for fact in ["XGBoost 3.2.0", "gbtree", "reg:squarederror", "depth 3", "amount"] {
            #expect(text.contains(fact), "\(text)")
        }
        let parsed = try JSONSerialization.jsonObject(with: Data(forest.description.json.utf8)) as? [String: Any]
        #expect(parsed?["trees"] as? Int == 4)
        #expect(parsed?["runs"] as? Bool == true)
        #expect(parsed?["featureNames"] as? [String] == ["amount", "hour", "ratio", "country"])
    }
}

@Suite struct DecimalTests {
    @Test func roundsOnce() throws {
        var random = SplitMix(state: 4)
        for _ in 0..<20_000 {
            let value = Float(bitPattern: UInt32(truncatingIfNeeded: random.next()))
            guard value.isFinite else { continue }
            #expect(Decimal.float("\(value)")?.bitPattern == value.bitPattern)
            // Exactly between two floats, and a hair beside: a rounding by way of Double would miss the last ones.
            let up = value.nextUp
            guard up.isFinite else { continue }
            let middle = (Double(value) + Double(up)) / 2
            let text = "\(middle)"
            #expect(Decimal.float(text)?.bitPattern == Float(text)?.bitPattern)
        }
        #expect(Decimal.float("16777217") == 16_777_216)
        #expect(Decimal.float("16777217.0000000000000000000000000001") == 16_777_218)
        #expect(Decimal.float("1.00000005960464477539062500000000000000000001") == Float(1).nextUp)
        #expect(Decimal.float("1.000000059604644775390625") == 1)
        #expect(Decimal.float("1e39") == .infinity)
        #expect(Decimal.float("-1e-60")?.sign == .minus)
        #expect(Decimal.float("." + String(repeating: "0", count: 3_000) + "1e3001") == 1)
    }

    @Test(arguments: ["", "-", "+", ".", "1x", "e5", "1e", "1e+", "--1", "0x10", "1 ", " 1", "1,5", "١"])
    func refuses(_ text: String) { #expect(Decimal.float(text) == nil) }

    @Test func words() {
        #expect(Decimal.float("NaN")?.isNaN == true)
        #expect(Decimal.float("-inf") == -.infinity)
        #expect(Decimal.float("Infinity") == .infinity)
    }
}
