// ForestBench: scores and times a model file without the rest of Tideline.
//
//   ForestBench score MODEL ROWS.f32   raw little-endian Float32 rows in, raw outputs on stdout
//   ForestBench bench MODEL ROWS.f32   µs a row at each level, batches and single rows

import CForest
import Foundation
import Scoring

func rows(_ path: String) -> [Float] {
    guard let data = FileManager.default.contents(atPath: path) else { fatalError("no \(path)") }
    return [Float](unsafeUninitializedCapacity: data.count / 4) { buffer, count in
        count = data.copyBytes(to: buffer) / 4
    }
}

func score(_ forest: Forest, _ rows: [Float]) {
    let count = rows.count / max(1, forest.featureCount)
    var outputs = [Float](repeating: 0, count: count * forest.outputCount)
    let scratch = ForestScratch(for: forest)
    forest.evaluate(
        rows: rows, count: count, stride: forest.featureCount, scratch: scratch, outputs: &outputs, embeddings: nil)
    FileHandle.standardOutput.write(outputs.withUnsafeBytes { Data($0) })
}

func microseconds(_ forest: Forest, _ rows: [Float], batch: Int, embedding: Bool) -> Double {
    let features = forest.featureCount
    let count = min(rows.count / features, 4_096) / batch * batch
    let scratch = ForestScratch(for: forest)
    var outputs = [Float](repeating: 0, count: batch * forest.outputCount)
    var places = [Float](repeating: 0, count: batch * 32)
    var best = Double.infinity
    for _ in 0..<15 {
        let start = ContinuousClock.now
        rows.withUnsafeBufferPointer { all in
            for from in stride(from: 0, to: count, by: batch) {
                places.withUnsafeMutableBufferPointer { places in
                    forest.evaluate(
                        rows: all.baseAddress! + from * features, count: batch, stride: features, scratch: scratch,
                        outputs: &outputs, embeddings: embedding ? places.baseAddress : nil)
                }
            }
        }
        let took = (ContinuousClock.now - start) / .microseconds(1)
        best = min(best, took / Double(count))
    }
    return best
}

let arguments = CommandLine.arguments
guard arguments.count == 4 else {
    print("usage: ForestBench score|bench MODEL ROWS.f32")
    exit(64)
}
do {
    let forest = try Forest.load(path: arguments[2])
    let all = rows(arguments[3])
    if arguments[1] == "score" {
        score(forest, all)
    } else {
        print(forest.description.text)
        for (level, name) in [(0, "plain"), (1, "avx2"), (2, "avx512")] where cforest_force_level(Int32(level)) == level
        {
            var line = name.padding(toLength: 8, withPad: " ", startingAt: 0)
            for (batch, embedding) in [(1, false), (1, true), (8, true), (64, false), (64, true), (512, true)] {
                let cost = microseconds(forest, all, batch: batch, embedding: embedding)
                line += String(format: " %dx%@ %.3f", batch, embedding ? "+vector" : "", cost)
            }
            print(line, "µs/row")
        }
    }
} catch {
    FileHandle.standardError.write(Data("\(error)\n".utf8))
    exit(2)
}
