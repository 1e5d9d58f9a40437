/// What a model file is: for `tideline model check`.
package struct ModelDescription: Sendable {
    /// JSON or UBJ.
    package let format: String
    package let bytes: Int
    /// Of XGBoost, as written; empty where the file does not say.
    package let version: String
    package let booster: String
    package let objective: String
    package let trees: Int
    package let parallelTrees: Int
    package let nodes: Int
    package let depth: Int
    package let categoricalSplits: Int
    package let features: Int
    package let featureNames: [String]
    package let outputs: Int
    package let embedding: Int
    /// As written, one a margin.
    package let baseScores: [Float]
    /// Stands in the file where training stopped early; all trees count all the same.
    package let bestIteration: Int?
    /// How it is evaluated on this machine.
    package let path: String

    init(
        _ model: XGBoostModel, format: String, bytes: Int, outputs: Int, embedding: Int, depth: Int, path: String
    ) {
        self.format = format
        self.bytes = bytes
        version = model.version.map(String.init).joined(separator: ".")
        booster = model.booster.rawValue
        objective = model.objective.name
        trees = model.trees.count
        parallelTrees = model.parallelTrees
        nodes = model.trees.nodeCount
        self.depth = depth
        categoricalSplits = model.trees.setCount
        features = model.featureCount
        featureNames = model.featureNames
        self.outputs = outputs
        self.embedding = embedding
        baseScores = model.baseScores
        bestIteration = model.bestIteration
        self.path = path
    }

    /// For people, a fact a line.
    package var text: String {
        var lines = [
            "XGBoost \(version.isEmpty ? "(version not said)" : version), \(format), \(bytes) bytes",
            "booster      \(booster)",
            "objective    \(objective), \(outputs) output\(outputs == 1 ? "" : "s") a row",
        ]
        if booster != "gblinear" {
            lines.append("trees        \(trees), \(nodes) nodes, depth \(depth)")
            if parallelTrees > 1 { lines.append("             \(parallelTrees) trees a round") }
            if categoricalSplits > 0 { lines.append("             \(categoricalSplits) categorical splits") }
        }
        let names = featureNames.isEmpty ? "without names: their order must be given" : shortNames
        lines.append("features     \(features), \(names)")
        lines.append("base score   \(baseScores.prefix(8).map { "\($0)" }.joined(separator: ", "))")
        lines.append("embedding    \(embedding == 0 ? "none" : "\(embedding) coordinates")")
        if let bestIteration {
            lines.append("note         stopped early, best iteration \(bestIteration)")
            lines.append("             all trees count, as in Booster.predict")
        }
        lines.append("runs         \(path)")
        return lines.joined(separator: "\n")
    }

    private var shortNames: String {
        let shown = featureNames.prefix(6).joined(separator: ", ")
        return featureNames.count > 6 ? "\(shown), …" : shown
    }

    /// One JSON object.
    package var json: String {
        var members = [
            "\"runs\":true", "\"format\":\(Self.quoted(format))", "\"bytes\":\(bytes)",
            "\"version\":\(Self.quoted(version))", "\"booster\":\(Self.quoted(booster))",
            "\"objective\":\(Self.quoted(objective))", "\"trees\":\(trees)", "\"parallelTrees\":\(parallelTrees)",
            "\"nodes\":\(nodes)", "\"depth\":\(depth)", "\"categoricalSplits\":\(categoricalSplits)",
            "\"features\":\(features)",
            "\"featureNames\":[\(featureNames.map { Self.quoted($0) }.joined(separator: ","))]",
            "\"outputs\":\(outputs)", "\"embedding\":\(embedding)",
            "\"baseScores\":[\(baseScores.map { "\($0)" }.joined(separator: ","))]",
        ]
        if let bestIteration { members.append("\"bestIteration\":\(bestIteration)") }
        members.append("\"path\":\(Self.quoted(path))")
        return "{\(members.joined(separator: ","))}"
    }

    /// A JSON object that says why a file is refused.
    package static func refusal(_ error: ModelError) -> String {
        "{\"runs\":false,\"code\":\(quoted(error.code.rawValue)),\"reason\":\(quoted(error.reason)),"
            + "\"remedy\":\(quoted(error.remedy))}"
    }

    static func quoted(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": quoted += "\\\""
            case "\\": quoted += "\\\\"
            case "\n": quoted += "\\n"
            default:
                if scalar.value < 32 {
                    let hex = String(scalar.value, radix: 16)
                    quoted += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
                } else {
                    quoted.unicodeScalars.append(scalar)
                }
            }
        }
        return quoted + "\""
    }
}
