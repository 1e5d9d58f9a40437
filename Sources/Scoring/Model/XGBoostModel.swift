/// A model of XGBoost as its file tells it: versions 1, 2 and 3, JSON or UBJ.
///
/// Predictions follow `Booster.predict` with its defaults: **all** trees count. An early-stopped model keeps its
/// `best_iteration` attribute, which `Booster.predict` ignores in all of 1.7, 2.1 and 3.2, while the scikit-learn
/// wrapper cuts the trees there; to ship the cut, save `booster[: best_iteration + 1]`.
struct XGBoostModel: Sendable {
    enum Booster: String, Sendable { case gbtree, dart, gblinear }

    let version: [Int]
    let booster: Booster
    let objective: Objective
    let featureCount: Int
    /// Margins a row: classes, targets or quantiles; else 1.
    let groupCount: Int
    /// As written, one a margin.
    let baseScores: [Float]
    let baseMargins: [Float]
    let featureNames: [String]
    let featureTypes: [String]
    let parallelTrees: Int
    let bestIteration: Int?
    /// Of gbtree and dart.
    let trees: TreeArrays
    /// Of gblinear: weight of feature f in margin g at `f * groupCount + g`; the biases follow.
    let weights: [Float]

    /// Reads what the parsed file holds.
    init(_ value: ModelValue) throws(ModelError) {
        let file = ModelNode(value: value, path: "")
        if file.optional("Model") != nil, file.optional("Config") != nil {
            throw ModelError(
                .unsupported, "this is a snapshot of a training session, not a model",
                remedy: "save it again with `booster.save_model(\"model.json\")`")
        }
        version = try Self.version(file)
        let learner = try file.member("learner")
        let parameters = try learner.member("learner_model_param")
        objective = try Objective.named(try learner.member("objective").member("name").string())
        featureCount = try parameters.member("num_feature").integer()
        guard (0...1 << 20).contains(featureCount) else {
            throw ModelError(.structure, "num_feature is \(featureCount), beyond 0 … 1048576")
        }
        groupCount = try Self.groups(parameters, objective)
        baseScores = try Self.baseScores(parameters.member("base_score"), groups: groupCount)
        featureNames = try learner.optional("feature_names")?.strings() ?? []
        featureTypes = try learner.optional("feature_types")?.strings() ?? []
        guard featureNames.isEmpty || featureNames.count == featureCount else {
            throw ModelError(.structure, "\(featureNames.count) feature names for \(featureCount) features")
        }
        bestIteration = try learner.optional("attributes")?.optional("best_iteration")?.integer()

        let gradient = try learner.member("gradient_booster")
        let name = try gradient.member("name").string()
        guard let booster = Booster(rawValue: name) else {
            throw ModelError(.unsupported, "the booster `\(name)` is not known here")
        }
        self.booster = booster
        // XGBoost 3.2's gblinear starts every output from the first base score, though it estimates one for each.
        let scores = booster == .gblinear ? Array(repeating: baseScores[0], count: groupCount) : baseScores
        baseMargins = try Self.baseMargins(scores, objective)
        if booster == .gblinear {
            weights = try Self.weights(try gradient.member("model"), features: featureCount, groups: groupCount)
            trees = TreeArrays()
            parallelTrees = 1
        } else {
            let holder = booster == .dart ? try gradient.member("gbtree") : gradient
            let model = try holder.member("model")
            try Self.refuseCategoryNames(model)
            let scales = booster == .dart ? try gradient.member("weight_drop").floats() : nil
            trees = try TreeArrays(
                model, features: featureCount, groups: groupCount, scales: scales, version: version)
            weights = []
            let forest = model.optional("gbtree_model_param")?.optional("num_parallel_tree")
            parallelTrees = try forest?.integer() ?? 1
        }
    }

    private static func version(_ file: ModelNode) throws(ModelError) -> [Int] {
        guard let node = file.optional("version") else { return [] }
        let parts = try node.integers().map { Int($0) }
        guard let major = parts.first, (1...3).contains(major) else {
            let written = parts.map(String.init).joined(separator: ".")
            throw ModelError(
                .unsupported, "the file is of XGBoost \(written); versions 1, 2 and 3 are known here")
        }
        return parts
    }

    private static func groups(_ parameters: ModelNode, _ objective: Objective) throws(ModelError) -> Int {
        let classes = try parameters.optional("num_class")?.integer() ?? 0
        let targets = try parameters.optional("num_target")?.integer() ?? 1
        guard (0...65_536).contains(classes), (0...65_536).contains(targets) else {
            throw ModelError(.structure, "num_class is \(classes) and num_target \(targets), beyond 65536")
        }
        guard classes <= 1 || targets <= 1 else {
            throw ModelError(.unsupported, "a model of \(classes) classes and \(targets) targets at once")
        }
        guard !objective.isMultiClass || classes >= 1 else {
            throw ModelError(.structure, "\(objective.name) with num_class \(classes)")
        }
        return max(1, classes, targets)
    }

    /// `base_score` comes as a number, a string with one, an array, or a string with an array.
    private static func baseScores(_ node: ModelNode, groups: Int) throws(ModelError) -> [Float] {
        var scores: [Float]
        switch node.value {
        case .integer(let number): scores = [Float(number)]
        case .float(let number): scores = [number]
        case .string(let text):
            let inner = text.hasPrefix("[") && text.hasSuffix("]") ? text.dropFirst().dropLast() : text[...]
            scores = []
            for part in inner.split(separator: ",", omittingEmptySubsequences: false) {
                guard let score = Decimal.float(String(part.drop { $0 == " " })) else {
                    throw ModelError(.malformed, "base_score is `\(text)`, which holds no number")
                }
                scores.append(score)
            }
        default: scores = try node.floats()
        }
        if scores.count == 1 { scores = Array(repeating: scores[0], count: groups) }
        guard scores.count == groups else {
            throw ModelError(.structure, "base_score has \(scores.count) values for \(groups) outputs")
        }
        return scores
    }

    private static func baseMargins(_ scores: [Float], _ objective: Objective) throws(ModelError) -> [Float] {
        let margins = scores.map { objective.margin(base: $0) }
        for (score, margin) in zip(scores, margins) where !margin.isFinite {
            throw ModelError(.structure, "base_score \(score) is impossible for \(objective.name)")
        }
        return margins
    }

    private static func weights(_ model: ModelNode, features: Int, groups: Int) throws(ModelError) -> [Float] {
        let weights = try model.member("weights").floats()
        guard weights.count == (features + 1) * groups else {
            throw ModelError(.structure, "\(weights.count) weights for \(features) features and \(groups) outputs")
        }
        guard weights.allSatisfy(\.isFinite) else { throw ModelError(.structure, "a weight that is not finite") }
        return weights
    }

    /// XGBoost 3.1 and later keep the names of a data frame's categories and recode by them.
    private static func refuseCategoryNames(_ model: ModelNode) throws(ModelError) {
        guard let encodings = model.optional("cats")?.optional("enc"), !encodings.value.isEmpty else { return }
        throw ModelError(
            .unsupported, "the model recodes named categories (`cats` is not empty)",
            remedy: "train on the categories' codes as numbers (`df[c] = df[c].cat.codes`, feature type `c`)")
    }
}
