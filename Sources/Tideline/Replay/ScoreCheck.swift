import Features
import Foundation
import Glibc
import HTTP

/// Compares the scores of a replay's events with their labels: reads what the core committed since the replay began.
final class ScoreCheck {
    private let url: String
    private let client = HTTPClient()
    private let column: Int
    private let rule: LabelRule
    private var starts: [Int] = []
    private var labels: [String: Bool] = [:]
    private static let eventsMax = 5_000_000
    private static let patienceSeconds = 15

    /// Asks the core where its partitions stand now.
    init(url: String, pipeline: Pipeline, label: String, rule: LabelRule) throws {
        self.url = url.hasSuffix("/") ? String(url.dropLast()) : url
        self.rule = rule
        guard let column = pipeline.kept.first(where: { pipeline.columns[$0].name == label }) else {
            let known = pipeline.kept.map { pipeline.columns[$0].name }.joined(separator: ", ")
            throw UsageError("--label: the pipeline keeps no field `\(label)`; it keeps \(known)")
        }
        self.column = column
        let answer = try? client.get(self.url + "/v1/status")
        let object = answer.flatMap { try? JSONSerialization.jsonObject(with: Data($0.body)) } as? [String: Any]
        guard let heads = object?["heads"] as? [[String: Any]], !heads.isEmpty else {
            throw InputError("\(self.url) does not say how it stands; --label needs a core that runs")
        }
        starts = heads.map { $0["seq"] as? Int ?? 0 }
    }

    /// Notes the label of the event that was decoded last.
    func note(_ decoder: EventDecoder) {
        guard labels.count < Self.eventsMax else { return }
        let isPositive: Bool
        switch decoder.pipeline.columns[column].type {
        case .number:
            let number = decoder.number(column)
            guard !number.isNaN else { return }
            isPositive = rule.holds(for: number)
        case .vector: return
        case .text, .time:
            let text = unsafe decoder.text(column)
            guard text.count > 0 else { return }
            isPositive = unsafe rule.holds(for: String(decoding: text, as: UTF8.self))
        }
        labels[unsafe String(decoding: decoder.id, as: UTF8.self)] = isPositive
    }

    /// Waits until every labelled event is scored, or nothing has come for a while; says how well scores and labels agree.
    func result(unless isStopped: () -> Bool) throws -> String {
        var scores: [(score: Float, isPositive: Bool)] = []
        var idle = 0
        let total = labels.count
        while !labels.isEmpty, idle < Self.patienceSeconds * 4, !isStopped() {
            let before = scores.count
            for partition in starts.indices { try read(partition, into: &scores) }
            idle = scores.count > before ? 0 : idle + 1
            if idle > 0 { usleep(250_000) }
        }
        guard !scores.isEmpty else {
            return "none of \(total) labelled events got a score: is there a model, and are the ids new to the core?"
        }
        var text = "\(scores.count) of \(total) labelled events scored"
        if let quality = Self.quality(scores) {
            text += String(
                format: ", %d of them positive: AUC %.4f, average precision %.4f", scores.filter(\.isPositive).count,
                quality.auc, quality.averagePrecision)
        } else {
            text += ", all with the same label: no AUC"
        }
        return text
    }

    private func read(_ partition: Int, into scores: inout [(score: Float, isPositive: Bool)]) throws {
        while true {
            let answer = try client.get("\(url)/v1/scores?partition=\(partition)&after=\(starts[partition])")
            guard answer.status == 200 else { throw InputError("\(url)/v1/scores answers \(answer.status)") }
            let next = answer.header("tideline-next")?.split(separator: "=").last.flatMap { Int($0) }
            guard let next, next > starts[partition] else { return }
            starts[partition] = next
            for line in answer.body.split(separator: 10) {
                guard let object = try JSONSerialization.jsonObject(with: Data(line)) as? [String: Any],
                    let id = object["id"] as? String, let label = labels.removeValue(forKey: id),
                    let score = object["score"] as? NSNumber
                else { continue }
                scores.append((score.floatValue, label))
            }
        }
    }

    /// `nil` where one of the two labels does not occur. Method: AUC by ranks, ties in the middle (Mann and Whitney);
    /// average precision as the sum of precision over the steps of recall, one step for equal scores.
    static func quality(
        _ scores: [(score: Float, isPositive: Bool)]
    ) -> (auc: Double, averagePrecision: Double)? {
        let sorted = scores.sorted { $0.score > $1.score }
        let positives = sorted.filter(\.isPositive).count
        let negatives = sorted.count - positives
        guard positives > 0, negatives > 0 else { return nil }
        var wins = 0.0
        var precision = 0.0
        var (hits, misses, at) = (0, 0, 0)
        while at < sorted.count {
            var (equalHits, equalMisses) = (0, 0)
            let score = sorted[at].score
            while at < sorted.count, sorted[at].score == score {
                if sorted[at].isPositive { equalHits += 1 } else { equalMisses += 1 }
                at += 1
            }
            wins += Double(equalHits) * (Double(negatives - misses - equalMisses) + Double(equalMisses) / 2)
            hits += equalHits
            misses += equalMisses
            precision += Double(equalHits) / Double(positives) * Double(hits) / Double(hits + misses)
        }
        return (wins / Double(positives) / Double(negatives), precision)
    }
}
