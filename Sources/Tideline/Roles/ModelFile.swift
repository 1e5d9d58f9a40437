import Features
import Scoring

/// The model that a pipeline names.
enum ModelFile {
    static func load(_ pipeline: Pipeline) throws -> ScoringModel? {
        guard let path = pipeline.model else { return nil }
        return try ScoringModel(path: path, pipeline: pipeline)
    }
}
