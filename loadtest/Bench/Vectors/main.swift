// Times nearest neighbours in process, one query at a time on one thread, and prints JSON.
//
//   VectorsBench BASE.npy CALIBRATION.npy QUERIES.npy TRUTH.npy [--threads N] [--metric l2|ip|cosine] [--keep FILE]
//                [--kernel scalar|avx2|avx512]
//   VectorsBench --tables COUNT [--threads N]: recall and speed with identical vectors, deletions and filters
//
// TRUTH.npy has each calibration query's nearest rows as i32, then each query's. For recall@10 of .95 and .99 the least γ
// is sought that reaches it on the calibration queries, with the shortlist that is fastest on them; the other queries are timed with it.
import Foundation
import Vectors

let arguments = CommandLine.arguments
func option(_ name: String) -> String? { arguments.firstIndex(of: name).map { arguments[$0 + 1] } }
if let name = option("--kernel") {
    let kernel = VectorKernel.allCases.first { "\($0)" == name }
    guard let kernel, kernel.use() else {
        print("this machine does not run \(name)")
        exit(2)
    }
}
if let count = option("--tables").flatMap({ Int($0) }) {
    var tables = Tables(count: count, threads: Int(option("--threads") ?? "1") ?? 1)
    for line in try tables.run() {
        print(String(decoding: try JSONSerialization.data(withJSONObject: line, options: [.sortedKeys]), as: UTF8.self))
    }
    exit(0)
}
guard arguments.count >= 5 else {
    print("VectorsBench BASE.npy CALIBRATION.npy QUERIES.npy TRUTH.npy [options]; its source names them")
    exit(2)
}

let base = try Matrix<Float>(npy: arguments[1])
let calibration = try Matrix<Float>(npy: arguments[2])
let queries = try Matrix<Float>(npy: arguments[3])
let truth = try Matrix<Int32>(npy: arguments[4])
let metric: Metric = ["ip": .innerProduct, "cosine": .cosine][option("--metric") ?? ""] ?? .squaredL2
let path = option("--keep") ?? NSTemporaryDirectory() + "vectors-bench-\(getpid()).segment"
defer { if option("--keep") == nil { try? FileManager.default.removeItem(atPath: path) } }

var plan = SegmentPlan(dimensions: base.columns, metric: metric)
plan.threads = Int(option("--threads") ?? "1") ?? 1
if let effort = option("--effort").flatMap({ Int($0) }) { plan.effort = effort }
let clock = ContinuousClock()
var segment: Segment?
let sealing = try clock.measure {
    try Segment.seal((0..<base.rows).map { SegmentRow(id: UInt64($0)) }, base.values, plan: plan, path: path)
}
let opening = try clock.measure { segment = try Segment(path: path, resident: true) }
guard let segment else { exit(1) }

/// What a pass over queries gave.
struct Pass {
    var recall = 0.0
    var seconds = Double.infinity
    var nanoseconds: [UInt64] = []
}

@MainActor func pass(
    _ set: Matrix<Float>, truthFrom offset: Int, _ effort: SearchEffort, rounds: Int, timed: Bool
) throws -> Pass {
    var result = Pass()
    var searcher = SegmentSearcher()
    var found: [Neighbour] = []
    let vectors = (0..<set.rows).map { set.row($0) }
    for _ in 0..<rounds {
        var hits = 0
        var nanoseconds: [UInt64] = []
        nanoseconds.reserveCapacity(set.rows)
        let start = DispatchTime.now().uptimeNanoseconds
        var last = start
        for (index, vector) in vectors.enumerated() {
            found.removeAll(keepingCapacity: true)
            try segment.search(vector, k: 10, effort: effort, with: &searcher, into: &found)
            if timed {
                let now = DispatchTime.now().uptimeNanoseconds
                nanoseconds.append(now - last)
                last = now
            } else {
                let expected = truth.slice(offset + index).prefix(10)
                hits += found.count { expected.contains(Int32($0.row.id)) }
            }
        }
        let seconds = Double(DispatchTime.now().uptimeNanoseconds - start) / 1e9
        if seconds < result.seconds {
            result.seconds = seconds
            result.nanoseconds = nanoseconds.sorted()
        }
        result.recall = Double(hits) / Double(10 * set.rows)
    }
    return result
}

/// γ with the cap that a sealed segment takes: a few times the mean number of expansions.
@MainActor func effort(_ gamma: Float, _ shortlist: Int) throws -> SearchEffort {
    var searcher = SegmentSearcher()
    var found: [Neighbour] = []
    var sum = 0
    for index in 0..<min(300, calibration.rows) {
        found.removeAll(keepingCapacity: true)
        try segment.search(
            calibration.row(index), k: 10, effort: .gamma(gamma, expansionsMax: 3000, shortlist: shortlist),
            with: &searcher, into: &found)
        sum += searcher.expansions
    }
    return .gamma(gamma, expansionsMax: 32 + 4 * sum / min(300, calibration.rows), shortlist: shortlist)
}

/// The least γ that reaches a recall with a shortlist on the calibration queries, and how many of those it answers a second;
/// nil where none does.
@MainActor func tuned(_ target: Double, _ shortlist: Int) throws -> (gamma: Float, effort: SearchEffort, rate: Double)?
{
    var low: Float = -0.6
    var high: Float = 1.5
    guard try pass(calibration, truthFrom: 0, effort(high, shortlist), rounds: 1, timed: false).recall >= target else {
        return nil
    }
    for _ in 0..<9 {
        let middle = (low + high) / 2
        let reached = try pass(calibration, truthFrom: 0, effort(middle, shortlist), rounds: 1, timed: false).recall
        if reached >= target { high = middle } else { low = middle }
    }
    let chosen = try effort(high, shortlist)
    let speed = try pass(calibration, truthFrom: 0, chosen, rounds: 5, timed: true)
    return (high, chosen, Double(calibration.rows) / speed.seconds)
}

var points: [[String: Any]] = []
for target in [0.95, 0.99] {
    let settings = try [16, 24].compactMap { try tuned(target, $0) }
    guard let (gamma, chosen, _) = settings.max(by: { $0.rate < $1.rate }) else {
        fatalError("no effort reaches a recall of \(target)")
    }
    let recall = try pass(queries, truthFrom: calibration.rows, chosen, rounds: 1, timed: false).recall
    let speed = try pass(queries, truthFrom: calibration.rows, chosen, rounds: 5, timed: true)
    let sealed = try pass(
        queries, truthFrom: calibration.rows, .recall(Float(target)), rounds: 1, timed: false
    ).recall
    points.append([
        "target": target, "gamma": Double(gamma), "effort": "\(chosen)", "recall": recall,
        "queriesPerSecond": Double(queries.rows) / speed.seconds,
        "p50Microseconds": Double(speed.nanoseconds[speed.nanoseconds.count / 2]) / 1000,
        "p99Microseconds": Double(speed.nanoseconds[speed.nanoseconds.count * 99 / 100]) / 1000,
        "recallByTheSegmentsOwnCalibration": sealed,
    ])
}
let facts = segment.facts
let output: [String: Any] = [
    "kernel": "\(VectorKernel.current)", "sealSeconds": sealing / .seconds(1), "openSeconds": opening / .seconds(1),
    "rows": facts.rows, "nodes": facts.nodes, "linkBytes": facts.linkBytes, "codeBytes": facts.codeBytes,
    "floatBytes": facts.floatBytes, "startBytes": facts.startBytes, "columnBytes": facts.columnBytes,
    "rowBytes": facts.rowBytes, "memoryBytes": facts.memoryBytes,
    "fileBytes": facts.fileBytes, "points": points,
]
print(String(decoding: try JSONSerialization.data(withJSONObject: output, options: [.sortedKeys]), as: UTF8.self))
