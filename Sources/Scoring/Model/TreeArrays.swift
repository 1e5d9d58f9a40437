/// The nodes of all trees, one after the other; children are absolute indices. Checked when read.
struct TreeArrays: Sendable {
    /// First node of each tree, and the end.
    private(set) var first: [Int32] = [0]
    private(set) var group: [Int32] = []
    private(set) var left: [Int32] = []
    private(set) var right: [Int32] = []
    private(set) var feature: [Int32] = []
    /// A threshold, or a leaf's value, scaled where DART says so.
    private(set) var value: [Float] = []
    private(set) var defaultLeft: [UInt8] = []
    private(set) var hessian: [Float] = []
    /// -1, or the set of categories that go right.
    private(set) var set: [Int32] = []
    private(set) var setFirst: [Int32] = [0]
    private(set) var setWords: [UInt32] = []

    /// Categories are 0 ..< 2^24: beyond, Float32 can't tell them apart.
    private static let categoriesMax: Int32 = 1 << 24
    private static let setWordsMax = 1 << 26

    var count: Int { group.count }
    var nodeCount: Int { left.count }
    var setCount: Int { setFirst.count - 1 }

    /// Features of categorical splits, ascending.
    var categoricalFeatures: [Int] {
        var features: Set<Int32> = []
        for (node, set) in set.enumerated() where set >= 0 { features.insert(feature[node]) }
        return features.sorted().map { Int($0) }
    }

    init() {}

    /// Reads the member `model` of a tree booster.
    init(
        _ model: ModelNode, features: Int, groups: Int, scales: [Float]?, version: [Int]
    ) throws(ModelError) {
        let trees = try model.member("trees").elements()
        group = try model.member("tree_info").integers()
        guard group.count == trees.count else {
            throw ModelError(.structure, "tree_info has \(group.count) entries for \(trees.count) trees")
        }
        guard group.allSatisfy({ $0 >= 0 && $0 < Int32(groups) }) else {
            throw ModelError(.structure, "a tree for an output that the model does not have")
        }
        if let scales, scales.count != trees.count {
            throw ModelError(.structure, "weight_drop has \(scales.count) entries for \(trees.count) trees")
        }
        for (index, tree) in trees.enumerated() {
            try append(tree, features: features, scale: scales?[index], version: version)
        }
    }

    private mutating func append(
        _ tree: ModelNode, features: Int, scale: Float?, version: [Int]
    ) throws(ModelError) {
        if let size = try tree.optional("tree_param")?.optional("size_leaf_vector")?.integer(), size > 1 {
            throw ModelError(
                .unsupported, "multi-output trees (`size_leaf_vector` \(size))",
                remedy: "train with `multi_strategy=one_output_per_tree`")
        }
        let lefts = try tree.member("left_children").integers()
        let rights = try tree.member("right_children").integers()
        let splits = try tree.member("split_indices").integers()
        let conditions = try tree.member("split_conditions").floats()
        let defaults = try tree.member("default_left").integers()
        let count = lefts.count
        let types = try tree.optional("split_type")?.integers() ?? Array(repeating: 0, count: count)
        let cover = try tree.optional("sum_hessian")?.floats() ?? Array(repeating: 0, count: count)
        for length in [rights.count, splits.count, conditions.count, defaults.count, types.count, cover.count]
        where length != count {
            throw ModelError(.structure, "\(tree.path): arrays of \(count) and of \(length) nodes")
        }
        guard count > 0 else { throw ModelError(.structure, "\(tree.path) has no node") }
        let base = left.count
        guard base + count < Int(Int32.max) / 2 else { throw ModelError(.structure, "too many nodes") }
        let sets = try categories(tree, types: types, version: version)
        let reached = try reach(tree.path, lefts, rights)

        for node in 0..<count {
            let isLeaf = lefts[node] < 0 || !reached[node]
            left.append(isLeaf ? -1 : lefts[node] + Int32(base))
            right.append(isLeaf ? -1 : rights[node] + Int32(base))
            feature.append(isLeaf ? 0 : splits[node])
            defaultLeft.append(defaults[node] == 0 ? 0 : 1)
            hessian.append(cover[node])
            set.append(isLeaf ? -1 : sets[node] ?? -1)
            value.append(isLeaf ? conditions[node] * (scale ?? 1) : conditions[node])
            guard reached[node] else { continue }
            if isLeaf {
                guard value[base + node].isFinite else {
                    throw ModelError(.structure, "\(tree.path), node \(node): a leaf that is not finite")
                }
            } else {
                guard splits[node] >= 0, Int(splits[node]) < features else {
                    throw ModelError(
                        .structure, "\(tree.path), node \(node): feature \(splits[node]) of \(features)")
                }
                guard types[node] != 1 || sets[node] != nil else {
                    throw ModelError(.structure, "\(tree.path), node \(node): a categorical split without categories")
                }
                guard sets[node] != nil || !conditions[node].isNaN else {
                    throw ModelError(.structure, "\(tree.path), node \(node): a threshold that is no number")
                }
            }
        }
        first.append(Int32(left.count))
    }

    /// Nodes that can be reached from the root, each by one way. Pruning leaves others behind: they mean nothing.
    private func reach(_ path: String, _ lefts: [Int32], _ rights: [Int32]) throws(ModelError) -> [Bool] {
        var reached = Array(repeating: false, count: lefts.count)
        reached[0] = true
        var open = [0]
        while let node = open.popLast() {
            let children = [lefts[node], rights[node]]
            if children == [-1, -1] { continue }
            for child in children {
                guard child >= 0, Int(child) < lefts.count else {
                    throw ModelError(.structure, "\(path), node \(node): child \(child) of \(lefts.count) nodes")
                }
                guard !reached[Int(child)] else {
                    throw ModelError(.structure, "\(path), node \(node): node \(child) is reached twice, or a cycle")
                }
                reached[Int(child)] = true
                open.append(Int(child))
            }
        }
        return reached
    }

    /// Sets of categories by node.
    private mutating func categories(
        _ tree: ModelNode, types: [Int32], version: [Int]
    ) throws(ModelError) -> [Int: Int32] {
        guard let nodes = try tree.optional("categories_nodes")?.integers(), !nodes.isEmpty else { return [:] }
        if let major = version.first, major == 1, version.count > 1, version[1] < 7 {
            throw ModelError(
                .unsupported, "categorical splits of XGBoost 1.\(version[1])",
                remedy: "load and save the model with 1.7 or later")
        }
        let values = try tree.member("categories").integers()
        let segments = try tree.member("categories_segments").integers()
        let sizes = try tree.member("categories_sizes").integers()
        guard segments.count == nodes.count, sizes.count == nodes.count else {
            throw ModelError(.structure, "\(tree.path): category arrays of different lengths")
        }
        var sets: [Int: Int32] = [:]
        for ((node, from), size) in zip(zip(nodes, segments), sizes) {
            guard node >= 0, Int(node) < types.count, types[Int(node)] == 1, sets[Int(node)] == nil else {
                throw ModelError(.structure, "\(tree.path): categories of node \(node), which has no such split")
            }
            guard from >= 0, size >= 0, Int(from) + Int(size) <= values.count else {
                throw ModelError(.structure, "\(tree.path), node \(node): categories out of range")
            }
            let members = values[Int(from)..<Int(from) + Int(size)]
            guard members.allSatisfy({ $0 >= 0 && $0 < Self.categoriesMax }) else {
                throw ModelError(.structure, "\(tree.path), node \(node): a category out of range")
            }
            let words = members.isEmpty ? 0 : Int(members.max() ?? 0) / 32 + 1
            guard setWords.count + words <= Self.setWordsMax else {
                throw ModelError(.unsupported, "categorical splits that need more than 256 MiB of sets")
            }
            let start = setWords.count
            setWords.append(contentsOf: repeatElement(0, count: words))
            for member in members { setWords[start + Int(member) / 32] |= 1 << UInt32(member % 32) }
            sets[Int(node)] = Int32(setCount)
            setFirst.append(Int32(setWords.count))
        }
        return sets
    }
}
