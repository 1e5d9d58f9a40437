import Testing

/// Writes model files with random trees: any depth, any number of features, sets of categories, chosen defaults.
struct SyntheticModel: CustomTestStringConvertible {
    var testDescription: String { "\(trees) trees, depth \(depth), \(features) features, seed \(seed)" }

    var features = 8
    var trees = 40
    var depth = 6
    /// Probability that a node above the last level splits.
    var density = 0.9
    var thresholdsPerFeature = 100
    /// Features from here on are categorical.
    var categoricalFrom = Int.max
    var groups = 1
    var objective = "reg:squarederror"
    var booster = "gbtree"
    var names: [String] = []
    var base = "\"5E-1\""
    var seed: UInt64 = 1

    /// Thresholds that the model may use: with these a test can stand on one.
    static func threshold(_ index: Int) -> Float { Float(index - 50) * 0.37 }

    func json() -> String {
        var random = SplitMix(state: seed)
        let written = (0..<trees).map { tree($0, &random) }
        let model =
            "{\"gbtree_model_param\":{\"num_trees\":\"\(trees)\"},"
            + "\"tree_info\":[\((0..<trees).map { "\($0 % groups)" }.joined(separator: ","))],"
            + "\"trees\":[\(written.joined(separator: ","))]}"
        let gradient: String
        if booster == "dart" {
            let weights = (0..<trees).map { _ in "\(Float(random.below(1000)) / 1000)" }
            gradient =
                "{\"name\":\"dart\",\"gbtree\":{\"name\":\"gbtree\",\"model\":\(model)},"
                + "\"weight_drop\":[\(weights.joined(separator: ","))]}"
        } else {
            gradient = "{\"name\":\"\(booster)\",\"model\":\(model)}"
        }
        let quoted = names.map { "\"\($0)\"" }.joined(separator: ",")
        return "{\"version\":[3,2,0],\"learner\":{\"attributes\":{},\"feature_names\":[\(quoted)],"
            + "\"gradient_booster\":\(gradient),\"learner_model_param\":{\"base_score\":\(base),"
            + "\"num_class\":\"\(groups > 1 ? groups : 0)\",\"num_feature\":\"\(features)\",\"num_target\":\"1\"},"
            + "\"objective\":{\"name\":\"\(objective)\"}}}"
    }

    func bytes() -> [UInt8] { Array(json().utf8) }

    private struct Node {
        var left = -1, right = -1, feature = 0, value = "0", defaultLeft = false, categories: [Int] = []
    }

    private func tree(_ index: Int, _ random: inout SplitMix) -> String {
        var nodes = [Node()]
        var level = [0]
        for _ in 0..<depth {
            var next: [Int] = []
            for place in level where random.unit() < density {
                var node = Node()
                node.feature = random.below(features)
                node.defaultLeft = random.below(2) == 1
                if node.feature >= categoricalFrom {
                    node.categories = (0..<70).filter { _ in random.below(3) == 0 }
                    if node.categories.isEmpty { node.categories = [1] }
                } else {
                    node.value = "\(Self.threshold(random.below(thresholdsPerFeature)))"
                }
                (node.left, node.right) = (nodes.count, nodes.count + 1)
                nodes += [Node(), Node()]
                next += [node.left, node.right]
                nodes[place] = node
            }
            level = next
        }
        for place in nodes.indices where nodes[place].left < 0 {
            nodes[place].value = "\(Float(random.below(2_000_001) - 1_000_000) / 777_777)"
        }
        let sets = nodes.indices.filter { !nodes[$0].categories.isEmpty }
        var segments: [Int] = []
        var at = 0
        for place in sets {
            segments.append(at)
            at += nodes[place].categories.count
        }
        func list(_ values: [String]) -> String { "[\(values.joined(separator: ","))]" }
        func each(_ value: (Node) -> String) -> String { list(nodes.map(value)) }
        return "{\"id\":\(index),\"tree_param\":{\"num_nodes\":\"\(nodes.count)\",\"size_leaf_vector\":\"1\"},"
            + "\"left_children\":\(each { "\($0.left)" }),\"right_children\":\(each { "\($0.right)" }),"
            + "\"split_indices\":\(each { "\($0.feature)" }),\"split_conditions\":\(each { $0.value }),"
            + "\"default_left\":\(each { $0.defaultLeft ? "1" : "0" }),"
            + "\"split_type\":\(each { $0.categories.isEmpty ? "0" : "1" }),"
            + "\"sum_hessian\":\(each { _ in "1" }),"
            + "\"categories_nodes\":\(list(sets.map { "\($0)" })),"
            + "\"categories_segments\":\(list(segments.map { "\($0)" })),"
            + "\"categories_sizes\":\(list(sets.map { "\(nodes[$0].categories.count)" })),"
            + "\"categories\":\(list(sets.flatMap { nodes[$0].categories }.map { "\($0)" }))}"
    }

    /// Rows on thresholds, beside them, missing, infinite, zero of both signs, categories known and unknown.
    func rows(_ count: Int, stride: Int? = nil, seed: UInt64 = 9) -> [Float] {
        var random = SplitMix(state: seed)
        let stride = stride ?? features
        return (0..<count * stride).map { place in
            let feature = place % stride
            if feature >= categoricalFrom {
                let odd: [Float] = [-1, .nan, 1e9, 2.5, -0.0, 16_777_215, 16_777_216, 0]
                return random.below(4) == 0 ? odd[random.below(8)] : Float(random.below(80))
            }
            let threshold = Self.threshold(random.below(thresholdsPerFeature))
            switch random.below(10) {
            case 0: return .nan
            case 1: return -0.0
            case 2: return 0
            case 3: return random.below(2) == 0 ? .infinity : -.infinity
            case 4, 5: return threshold
            case 6: return threshold.nextUp
            case 7: return threshold.nextDown
            default: return Float(random.below(100_000)) / 1_000 - 50
            }
        }
    }
}

/// The generator splitmix64: a test's numbers follow from its seed.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }

    mutating func unit() -> Double { Double(next() >> 11) / 9_007_199_254_740_992 }
}
