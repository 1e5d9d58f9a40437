import CAllocations
import CForest
import Foundation
import Testing

@testable import Scoring

/// Levels are a setting of the whole process, so what changes it runs one at a time.
@Suite(.serialized, .timeLimit(.minutes(5)))
struct ForestTests {
    @Test(arguments: Fixture.all)
    func predictsWhatXGBoostPredicts(_ fixture: Fixture) throws {
        let forest = try Forest.load(path: fixture.path)
        let golden = try GoldenRows.load(path: fixture.rowsPath)
        defer { cforest_force_level(-1) }
        for level in Int32(0)...2 {
            cforest_force_level(level)
            try forest.check(golden: golden)
            let outputs = forest.scored(golden.rows.flatMap { $0 }).outputs
            for (got, want) in zip(outputs, golden.outputs.flatMap { $0 }) {
                #expect(abs(got - want) <= 1e-6 * max(1, abs(want)))
            }
        }
    }

    static let shapes: [SyntheticModel] = [
        SyntheticModel(),
        SyntheticModel(features: 64, trees: 200, thresholdsPerFeature: 250, seed: 2),
        SyntheticModel(features: 3, trees: 9, depth: 2, seed: 3),
        SyntheticModel(features: 1, trees: 1, depth: 0, seed: 4),
        SyntheticModel(features: 20, trees: 31, depth: 5, thresholdsPerFeature: 5, seed: 5),
        SyntheticModel(features: 40, trees: 33, categoricalFrom: 37, seed: 6),
        SyntheticModel(features: 100, trees: 65, seed: 7),
        SyntheticModel(features: 200, trees: 64, seed: 8),
        SyntheticModel(features: 2, trees: 300, thresholdsPerFeature: 3_000, seed: 9),
        SyntheticModel(features: 12, trees: 50, depth: 9, density: 0.95, seed: 10),
        SyntheticModel(features: 12, trees: 40, depth: 12, density: 0.8, thresholdsPerFeature: 600, seed: 11),
        SyntheticModel(features: 12, trees: 10, depth: 10, categoricalFrom: 6, seed: 12),
        SyntheticModel(features: 30, trees: 600, depth: 6, categoricalFrom: 2, seed: 13),
        SyntheticModel(features: 9, trees: 60, groups: 3, objective: "multi:softprob", seed: 14),
        SyntheticModel(features: 9, trees: 60, groups: 5, objective: "multi:softmax", seed: 15),
        SyntheticModel(features: 9, trees: 70, objective: "binary:logistic", booster: "dart", seed: 16),
        SyntheticModel(features: 64, trees: 2_000, depth: 3, thresholdsPerFeature: 255, seed: 17),
        SyntheticModel(features: 4, trees: 80, thresholdsPerFeature: 256, seed: 18),
        SyntheticModel(features: 10, trees: 70, depth: 4, seed: 19),
        SyntheticModel(features: 100, trees: 70, depth: 5, seed: 20),
        SyntheticModel(features: 100, trees: 70, depth: 3, density: 0.5, seed: 21),
        SyntheticModel(features: 80, trees: 45, depth: 7, density: 0.6, seed: 22),
        SyntheticModel(features: 300, trees: 45, depth: 8, density: 0.8, seed: 23),
        SyntheticModel(features: 9, trees: 61, depth: 8, groups: 3, objective: "multi:softprob", seed: 24),
    ]

    @Test(arguments: shapes)
    func allLevelsAndBatchesGiveTheSameBits(_ shape: SyntheticModel) throws {
        let forest = try Forest(bytes: shape.bytes())
        defer { cforest_force_level(-1) }
        let stride = shape.features + 3
        let rows = shape.rows(203, stride: stride)
        cforest_force_level(0)
        let plain = forest.scored(rows, stride: stride)
        for level in Int32(0)...2 where cforest_force_level(level) == level {
            for batch in [1, 2, 8, 12, 13, 63, 64, 65, 203] {
                let got = forest.scored(rows, stride: stride, batch: batch)
                #expect(bits(got.outputs) == bits(plain.outputs), "level \(level), batches of \(batch)")
                #expect(bits(got.embeddings) == bits(plain.embeddings), "level \(level), batches of \(batch)")
            }
        }
    }

    @Test func plainWalkIsTheOneWrittenDown() throws {
        // The definition, in Swift: strict <, NaN by default, matches right, sums in the order of the trees.
        for shape in Self.shapes where shape.trees <= 200 && shape.groups == 1 && shape.booster == "gbtree" {
            let model = try XGBoostModel(try ModelFile.parse(shape.bytes()).value)
            let forest = try Forest(bytes: shape.bytes())
            let rows = shape.rows(50)
            let got = forest.scored(rows)
            for row in 0..<50 {
                let x = Array(rows[row * shape.features..<(row + 1) * shape.features])
                var total = model.baseMargins[0]
                var blocks = [Float](repeating: 0, count: 32)
                for tree in 0..<model.trees.count {
                    let leaf = walk(model.trees, tree, x)
                    total += leaf
                    let block = (0..<32).first { tree < ($0 + 1) * model.trees.count / 32 }!
                    blocks[block] += leaf
                }
                #expect(got.outputs[row].bitPattern == total.bitPattern)
                #expect(bits(Array(got.embeddings[row * 32..<row * 32 + 32])) == bits(blocks))
            }
        }
    }

    private func walk(_ trees: TreeArrays, _ tree: Int, _ x: [Float]) -> Float {
        var node = Int(trees.first[tree])
        while trees.left[node] >= 0 {
            let value = x[Int(trees.feature[node])]
            let left: Bool
            if value.isNaN {
                left = trees.defaultLeft[node] == 1
            } else if trees.set[node] >= 0 {
                let set = Int(trees.set[node])
                let words = trees.setWords[Int(trees.setFirst[set])..<Int(trees.setFirst[set + 1])]
                let known = value >= 0 && value < 16_777_216 && Int(value) < words.count * 32
                left = !known || words[words.startIndex + Int(value) / 32] >> UInt32(Int(value) % 32) & 1 == 0
            } else {
                left = value < trees.value[node]
            }
            node = Int(left ? trees.left[node] : trees.right[node])
        }
        return trees.value[node]
    }

    @Test func blocksDifferByAtMostOneTree() {
        for trees in [1, 31, 32, 33, 200, 2_000] {
            let sizes = (0..<32).map { ($0 + 1) * trees / 32 - $0 * trees / 32 }
            #expect(sizes.reduce(0, +) == trees)
            #expect(sizes.max()! - sizes.min()! <= 1)
        }
    }

    @Test func aThresholdIsStrictAndZeroHasNoSign() throws {
        func forest(_ threshold: String) throws -> Forest {
            try Forest(bytes: Array(stump(threshold: threshold).utf8))
        }
        let t = Float(0.1)
        #expect(try forest("0.1").scored([t, t.nextDown, t.nextUp, .nan]).outputs == [2, 1, 2, 1])
        #expect(try forest("0").scored([-0.0, 0, -.leastNonzeroMagnitude]).outputs == [2, 2, 1])
        #expect(try forest("-0.0").scored([-0.0, 0, -.leastNonzeroMagnitude]).outputs == [2, 2, 1])
        #expect(try forest("Infinity").scored([.infinity, .greatestFiniteMagnitude]).outputs == [2, 1])
        // A threshold is rounded once, to nearest even: this one lies between two floats, nearer to the lower.
        let between = "0.10000000521540641"
        #expect(try forest(between).scored([Float(between)!, Float(between)!.nextDown]).outputs == [2, 1])
    }

    @Test func theHotCallAllocatesNothing() throws {
        // The counter counts.
        let start = allocations_of_thread()
        _ = [Float](repeating: 1, count: 1_000 + Int(start % 7)).map { $0 + 1 }
        #expect(allocations_of_thread() > start)
        for shape in [Self.shapes[1], Self.shapes[5], Self.shapes[9], Self.shapes[13]] {
            let forest = try Forest(bytes: shape.bytes())
            let rows = shape.rows(80)
            var outputs = [Float](repeating: 0, count: 80 * forest.outputCount)
            var embeddings = [Float](repeating: 0, count: 80 * 32)
            let scratch = ForestScratch(for: forest)
            defer { cforest_force_level(-1) }
            for level in Int32(0)...2 {
                cforest_force_level(level)
                let before = allocations_of_thread()
                for call in 0..<10_000 / 4 {
                    forest.evaluate(
                        rows: rows, count: call % 80, stride: forest.featureCount, scratch: scratch,
                        outputs: &outputs, embeddings: &embeddings)
                }
                let made = allocations_of_thread() - before
                #expect(made == 0, "level \(level): \(made) allocations in 2,500 calls")
            }
        }
    }

    @Test func manyThreadsShareAForest() async throws {
        let shape = Self.shapes[1]
        let forest = try Forest(bytes: shape.bytes())
        let rows = shape.rows(130)
        let wanted = bits(forest.scored(rows).outputs)
        await withTaskGroup(of: Bool.self) { group in
            for batch in 1...8 {
                group.addTask {
                    (0..<20).allSatisfy { _ in bits(forest.scored(rows, batch: batch * 9).outputs) == wanted }
                }
            }
            for await same in group { #expect(same) }
        }
    }

    @Test func noRowsWriteNothing() throws {
        let forest = try Forest(bytes: SyntheticModel().bytes())
        let scratch = ForestScratch(for: forest)
        var output: Float = -7
        forest.evaluate(rows: [0], count: 0, stride: 8, scratch: scratch, outputs: &output, embeddings: nil)
        #expect(output == -7)
    }
}

/// One split: 1 on the left, 2 on the right, missing left.
func stump(
    threshold: String = "0.5", base: String = "\"0E0\"", left: String = "[1,-1,-1]", right: String = "[2,-1,-1]",
    indices: String = "[0,0,0]", objective: String = "reg:squarederror", extra: String = "", leaf: String = "2"
) -> String {
    "{\"version\":[3,2,0],\(extra)\"learner\":{\"gradient_booster\":{\"name\":\"gbtree\",\"model\":{\"tree_info\":[0],"
        + "\"trees\":[{\"left_children\":\(left),\"right_children\":\(right),\"split_indices\":\(indices),"
        + "\"split_conditions\":[\(threshold),1,\(leaf)],\"default_left\":[1,0,0]}]}},"
        + "\"learner_model_param\":{\"base_score\":\(base),\"num_class\":\"0\",\"num_feature\":\"1\"},"
        + "\"objective\":{\"name\":\"\(objective)\"}}}"
}
