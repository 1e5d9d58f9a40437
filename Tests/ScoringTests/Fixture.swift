import Foundation
import Testing

@testable import Scoring

/// A committed model of XGBoost with rows and what XGBoost predicts for them (Fixtures/make.py).
struct Fixture: CustomTestStringConvertible, Sendable {
    let name: String

    var testDescription: String { name }

    static let folder = Bundle.module.resourceURL!.appendingPathComponent("Fixtures").path

    static func files(_ suffix: String) -> [String] {
        let all = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        return all.filter { $0.hasSuffix(suffix) }.sorted()
    }

    static let refused = ["3-multi-output"]
    static let all = files(".rows.json").map { Fixture(name: String($0.dropLast(".rows.json".count))) }
        .filter { !refused.contains($0.name) }

    var path: String {
        let json = "\(Self.folder)/\(name).json"
        return FileManager.default.fileExists(atPath: json) ? json : "\(Self.folder)/\(name).ubj"
    }

    var rowsPath: String { "\(Self.folder)/\(name).rows.json" }

    func bytes() throws -> [UInt8] { try ModelFile.read(path) }

    /// The rows, one after the other.
    func rows() throws -> [Float] { try GoldenRows.load(path: rowsPath).rows.flatMap { $0 } }
}

extension Forest {
    /// Outputs and embeddings of rows that stand one after the other.
    func scored(_ rows: [Float], stride: Int? = nil, batch: Int? = nil) -> (outputs: [Float], embeddings: [Float]) {
        let stride = stride ?? featureCount
        let count = rows.count / stride
        let batch = batch ?? count
        var outputs = [Float](repeating: -7, count: count * outputCount)
        var embeddings = [Float](repeating: -7, count: max(1, count * embeddingDimension))
        let scratch = ForestScratch(for: self)
        rows.withUnsafeBufferPointer { rows in
            outputs.withUnsafeMutableBufferPointer { outputs in
                embeddings.withUnsafeMutableBufferPointer { embeddings in
                    var from = 0
                    while from < count {
                        let here = min(batch, count - from)
                        evaluate(
                            rows: rows.baseAddress! + from * stride, count: here, stride: stride, scratch: scratch,
                            outputs: outputs.baseAddress! + from * outputCount,
                            embeddings: embeddingDimension == 0
                                ? nil : embeddings.baseAddress! + from * embeddingDimension)
                        from += here
                    }
                }
            }
        }
        return (outputs, embeddingDimension == 0 ? [] : embeddings)
    }
}

/// Bits, so that NaN equals NaN and -0 differs from 0.
func bits(_ values: [Float]) -> [UInt32] { values.map(\.bitPattern) }
