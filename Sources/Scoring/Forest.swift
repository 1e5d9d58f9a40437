internal import CForest

/// A model of XGBoost, compiled for evaluation in process.
///
/// Outputs are those of `Booster.predict` with its defaults (see `XGBoostModel`), within 1e-6: comparisons and sums
/// are in Float32 in XGBoost's own order, the objective's link follows. NaN is a missing value.
package final class Forest: Sendable {
    /// Empty where the model has none.
    package let featureNames: [String]
    package let featureCount: Int
    /// Values a row: 1, or one a class, target or quantile.
    package let outputCount: Int
    /// 32 where the model has trees and one margin, else 0.
    package let embeddingDimension: Int
    package let objective: String
    package let booster: String
    package let treeCount: Int
    /// Features that some split takes for a category, ascending.
    package let categoricalFeatures: [Int]
    /// What the file is, for people and scripts.
    package let description: ModelDescription

    let ensemble: EnsembleHandle
    let marginCount: Int

    /// Loads a model file, JSON or UBJ, and compiles it. Blocks on the disk.
    package static func load(path: String) throws(ModelError) -> Forest {
        try Forest(bytes: try ModelFile.read(path))
    }

    /// Loads a model from the bytes of its file.
    package init(bytes: [UInt8]) throws(ModelError) {
        let (value, format) = try ModelFile.parse(bytes)
        let model = try XGBoostModel(value)
        ensemble = try EnsembleHandle(model)
        featureNames = model.featureNames
        featureCount = model.featureCount
        marginCount = model.groupCount
        outputCount = model.objective.outputs(margins: model.groupCount)
        embeddingDimension = model.groupCount == 1 && model.booster != .gblinear ? Int(CFOREST_EMBEDDING) : 0
        objective = model.objective.name
        booster = model.booster.rawValue
        treeCount = model.trees.count
        categoricalFeatures = model.trees.categoricalFeatures
        description = unsafe ModelDescription(
            model, format: format, bytes: bytes.count, outputs: outputCount, embedding: embeddingDimension,
            depth: Int(cforest_depth(ensemble.pointer)), path: Self.path(ensemble))
    }

    /// Scores `count` rows of `stride` floats each, the first `featureCount` of them in the model's order.
    ///
    /// Writes `outputCount` floats a row to `outputs`, and `embeddingDimension` floats a row to `embeddings` where it
    /// is given: coordinate i is the sum of the leaf values of the i-th of 32 consecutive blocks of trees. Neither
    /// allocates nor locks; any number of threads may call at once, each with its own scratch. The same row gives the
    /// same bits alone and in any batch, on any instruction set.
    package func evaluate(
        rows: UnsafePointer<Float>, count: Int, stride: Int, scratch: ForestScratch,
        outputs: UnsafeMutablePointer<Float>, embeddings: UnsafeMutablePointer<Float>?
    ) {
        precondition(scratch.ensemble === ensemble, "the scratch belongs to another forest")
        precondition(count >= 0 && stride >= featureCount && stride < 1 << 24, "rows shorter than the model's features")
        let places = unsafe embeddingDimension == 0 ? nil : embeddings
        unsafe cforest_evaluate(ensemble.pointer, scratch.pointer, rows, count, stride, outputs, places)
    }

    /// How many of a row's categories can be none: negative, or 2^24 and more. They go left at every split, as in
    /// XGBoost; callers count them. A fraction counts as the category below it, a missing value as missing.
    package func invalidCategories(row: UnsafePointer<Float>) -> Int {
        var invalid = 0
        for feature in categoricalFeatures {
            let value = unsafe row[feature]
            if value < 0 || value >= 16_777_216 { invalid += 1 }
        }
        return invalid
    }

    /// Where each of the model's features stands among `names`, matched byte for byte.
    ///
    /// A missing, surplus or repeated name refuses. A model without names needs an explicit order: the counts match
    /// and the caller vouches for the order.
    package func bind(to names: [String], explicitOrder: Bool = false) throws(ModelError) -> [Int32] {
        guard !featureNames.isEmpty || featureCount == 0 else {
            guard explicitOrder else {
                throw ModelError(
                    .features, "the model has no feature names",
                    remedy: "give the order of its \(featureCount) features explicitly, or train with named columns")
            }
            guard names.count == featureCount else {
                throw ModelError(.features, "\(names.count) features for a model of \(featureCount)")
            }
            return (0..<Int32(featureCount)).map { $0 }
        }
        // Swift's strings compare by canonical equivalence; bytes do not.
        var places: [[UInt8]: Int32] = [:]
        for (place, name) in names.enumerated() {
            guard places.updateValue(Int32(place), forKey: Array(name.utf8)) == nil else {
                throw ModelError(.features, "the feature `\(name)` is given twice")
            }
        }
        var bound: [Int32] = []
        for name in featureNames {
            guard let place = places.removeValue(forKey: Array(name.utf8)) else {
                let twice = featureNames.filter { $0.utf8.elementsEqual(name.utf8) }.count > 1
                let reason =
                    twice ? "the model names its feature `\(name)` twice" : "the model's feature `\(name)` is missing"
                throw ModelError(.features, reason)
            }
            bound.append(place)
        }
        if let (_, place) = places.min(by: { $0.value < $1.value }) {
            throw ModelError(.features, "the feature `\(names[Int(place)])` is not among the model's")
        }
        return bound
    }

    private static func path(_ ensemble: EnsembleHandle) -> String {
        let kind = unsafe Int(cforest_path(ensemble.pointer))
        let abreast =
            switch Int(cforest_level()) {
            case CFOREST_LEVEL_AVX512: "AVX-512"
            case CFOREST_LEVEL_AVX2: "AVX2"
            default: "no wide registers"
            }
        switch kind {
        case CFOREST_PATH_BYTES: return "bytes, 64 rows abreast, \(abreast)"
        case CFOREST_PATH_RANKED: return "bytes, 64 rows abreast, \(abreast), below level 6 node by node"
        case CFOREST_PATH_LINEAR: return "linear"
        default: return "node by node"
        }
    }
}
