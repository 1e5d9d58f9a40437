internal import Foundation
import Changes
import Features

/// The model as the pipeline uses it: bound to the pipeline's features, known by its content.
///
/// A file beside the model, `NAME.golden.json`, is checked at load: a model that does not give its golden rows' outputs
/// is refused.
package final class ScoringModel: Sendable {
    package let forest: Forest
    /// For each of the model's features its place in the pipeline's row; `nil` where the order is the same.
    package let order: [Int32]?
    /// The first 8 bytes of the file's hash.
    package let identity: UInt64
    /// What score records say: the file's name and the beginning of its hash.
    package let label: String

    package init(path: String, pipeline: Pipeline) throws {
        let bytes = try [UInt8](Data(contentsOf: URL(filePath: path)))
        forest = try Forest(bytes: bytes)
        guard forest.outputCount == 1 else {
            throw ModelError(
                .unsupported, "\(path) gives \(forest.outputCount) outputs; a pipeline's score is one number",
                remedy: "train a model with one output, such as binary:logistic")
        }
        let golden = path.hasSuffix(".json") ? String(path.dropLast(5)) + ".golden.json" : path + ".golden.json"
        if FileManager.default.fileExists(atPath: golden) {
            try forest.check(golden: GoldenRows.load(path: golden))
        }
        let binding = try forest.bind(to: pipeline.featureNames)
        order = binding.enumerated().allSatisfy { $0.offset == Int($0.element) } ? nil : binding
        identity = unsafe bytes.withUnsafeBytes { unsafe stableHash($0) }
        let name = path.split(separator: "/").last.map(String.init) ?? path
        label = "\(name)@\(String(identity, radix: 16).prefix(8))"
    }
}

extension Pipeline {
    /// Numbers of an event's vector, whether the event brings it or the model makes it; 0 where there is none.
    package func vectorDimension(_ model: ScoringModel?) -> Int {
        embedding.column == nil ? model?.forest.embeddingDimension ?? 0 : embedding.dimension
    }
}
