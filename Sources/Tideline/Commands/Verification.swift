import Changes
import Core
import Features
import Foundation
import Scoring
import Service

/// What `verify` counts, and whether it holds.
struct Verification {
    private let reader: any LogReader
    private let pipeline: Pipeline
    private(set) var events: UInt64 = 0
    private(set) var scored: UInt64 = 0
    private(set) var duplicates: UInt64 = 0
    private(set) var deadLetters: UInt64 = 0
    private(set) var waiting: UInt64 = 0
    private(set) var missing: UInt64 = 0
    private(set) var scoredTwice: UInt64 = 0
    private(set) var faults: [String] = []
    private(set) var regions: [(name: String, verdict: String, holds: Bool)] = []
    private(set) var recomputed: (rows: Int, different: Int)?
    /// The digest after each batch, by partition: what a region must have at its own seq.
    private var digests: [[UInt64]] = []

    init(reader: any LogReader, pipeline: Pipeline) {
        self.reader = reader
        self.pipeline = pipeline
    }

    var holds: Bool {
        faults.isEmpty && missing == 0 && scoredTwice == 0 && regions.allSatisfy(\.holds)
            && (recomputed?.different ?? 0) == 0
    }

    mutating func readLog() throws {
        var scoredIds: Set<IdentityHash> = []
        for partition in 0..<reader.partitions {
            // The input's end first: what is committed later can only answer for more.
            let inputEnd = try reader.inputEnd(of: partition)
            var offsets: Set<UInt64> = []
            var dead: Set<UInt64> = []
            var expected: UInt64 = 1
            var position: UInt64 = 0
            var digest: UInt64 = 0
            var trail: [UInt64] = [0]
            var dropped: UInt64 = 0
            try unsafe reader.changelog(of: partition, after: 0) { seq, encoded in
                let batch = try unsafe ChangeBatch(decoding: encoded)
                if seq != expected || batch.header.seq != seq {
                    faults.append("partition \(partition): seq \(seq) where \(expected) was due")
                }
                if batch.header.firstOffset != position {
                    faults.append(
                        "partition \(partition): batch \(seq) begins at \(batch.header.firstOffset), not at \(position)"
                    )
                }
                if batch.header.lineage != reader.lineage {
                    faults.append("partition \(partition): batch \(seq) is of another log")
                }
                expected = seq + 1
                position = batch.header.endOffset
                digest = batch.digest(after: digest)
                trail.append(digest)
                dropped += UInt64(batch.header.duplicates)
                batch.forEachChange { change in
                    guard change.kind == .event, let record = unsafe EventRecord(change.value) else { return }
                    scored += 1
                    if !offsets.insert(record.inputOffset).inserted { scoredTwice += 1 }
                    let hash = unsafe IdentityHash(of: change.key, seed: 1)
                    if !scoredIds.insert(hash).inserted { scoredTwice += 1 }
                }
                return true
            }
            digests.append(trail)
            try reader.deadLetters(of: partition, after: 0) { seq, letters in
                guard seq < expected else { return false }
                for letter in letters { dead.insert(letter.offset) }
                return true
            }
            try checkScores(partition, offsets, through: expected - 1)
            deadLetters += UInt64(dead.count)
            duplicates += dropped
            events += inputEnd
            waiting += inputEnd > position ? inputEnd - position : 0
            missing += try countMissing(
                partition, upTo: position, scored: offsets, dead: dead, scoredIds: scoredIds, dropped: dropped)
        }
    }

    /// Each scored event has its line among the scores, once.
    private mutating func checkScores(_ partition: Int, _ offsets: Set<UInt64>, through last: UInt64) throws {
        var lines = 0
        try unsafe reader.scores(of: partition, after: 0) { seq, bytes in
            guard seq <= last else { return false }
            // A record of Kafka's is one line without an end.
            unsafe lines += bytes.reduce(0) { $0 + ($1 == 0x0A ? 1 : 0) } + (bytes.last == 0x0A ? 0 : 1)
            return true
        }
        if lines != offsets.count {
            faults.append("partition \(partition): \(offsets.count) events scored, \(lines) score records")
        }
    }

    /// Events below the position that are neither scored nor dead nor the duplicate of one that is scored.
    private func countMissing(
        _ partition: Int, upTo position: UInt64, scored: Set<UInt64>, dead: Set<UInt64>, scoredIds: Set<IdentityHash>,
        dropped: UInt64
    ) throws -> UInt64 {
        let decoder = EventDecoder(pipeline)
        var missing: UInt64 = 0
        var repeated: UInt64 = 0
        var next: UInt64 = 0
        try unsafe reader.input(of: partition, from: 0) { offset, event, _ in
            guard offset < position else { return false }
            if offset != next { missing += 1 }
            next = offset + 1
            if scored.contains(offset) || dead.contains(offset) { return true }
            guard unsafe decoder.decode(event, readable: event.count) == nil, let tenant = decoder.tenant else {
                missing += 1
                return true
            }
            var key: [UInt8] = [UInt8(pipeline.tenants[tenant].utf8.count)]
            key += Array(pipeline.tenants[tenant].utf8)
            unsafe key.append(contentsOf: decoder.id)
            if unsafe key.withUnsafeBytes({ unsafe scoredIds.contains(IdentityHash(of: $0, seed: 1)) }) {
                repeated += 1
            } else {
                missing += 1
            }
            return true
        }
        if next < position { missing += position - next }
        return repeated == dropped ? missing : missing + (repeated > dropped ? repeated - dropped : dropped - repeated)
    }

    /// Each region's digest against the log's at the same seq.
    mutating func compare(_ statuses: [String: [String: Any]?]) {
        for (name, status) in statuses.sorted(by: { $0.key < $1.key }) {
            guard let status else {
                regions.append((name, "does not answer", false))
                continue
            }
            var verdict = "equal"
            var good = true
            for partition in status["partitions"] as? [[String: Any]] ?? [] {
                guard let number = (partition["partition"] as? NSNumber)?.intValue,
                    let seq = (partition["seq"] as? NSNumber)?.intValue, let digest = partition["digest"] as? String
                else { continue }
                guard number < digests.count, seq < digests[number].count else {
                    verdict = "is ahead of its log in partition \(number)"
                    good = false
                    continue
                }
                if UInt64(digest, radix: 16) != digests[number][seq] {
                    verdict = "differs in partition \(number) at \(seq)"
                    good = false
                }
            }
            let known = (status["partitions"] as? [Any])?.count ?? 0
            if known != reader.partitions {
                verdict = "holds \(known) of \(reader.partitions) partitions"
                good = false
            }
            if status["lineage"] as? String != reader.lineage.description {
                verdict = "follows another log"
                good = false
            }
            regions.append((name, verdict, good))
        }
    }

    /// Makes every row and score again from the input and the recorded frontiers.
    mutating func recompute(model: ScoringModel?) throws {
        var recomputation = Recomputation(reader: reader, pipeline: pipeline, model: model)
        recomputed = try recomputation.run()
    }

    var text: String {
        var lines = [
            "events       \(events)", "scored       \(scored)", "duplicates   \(duplicates) dropped",
            "dead letters \(deadLetters)", "waiting      \(waiting)", "missing      \(missing)",
            "scored twice \(scoredTwice)",
        ]
        for region in regions { lines.append("region \(region.name)    \(region.verdict)") }
        if let recomputed { lines.append("recomputed   \(recomputed.rows) rows, \(recomputed.different) different") }
        lines += faults.prefix(20).map { "fault        \($0)" }
        lines.append(holds ? "holds" : "DOES NOT HOLD")
        return lines.joined(separator: "\n")
    }

    func json() throws -> String {
        var object: [String: Any] = [
            "events": events, "scored": scored, "duplicates": duplicates, "deadLetters": deadLetters,
            "waiting": waiting,
            "missing": missing, "scoredTwice": scoredTwice, "faults": faults, "holds": holds,
            "regions": Dictionary(uniqueKeysWithValues: regions.map { ($0.name, $0.verdict) }),
        ]
        if let recomputed { object["recomputed"] = ["rows": recomputed.rows, "different": recomputed.different] }
        let data = try JSONSerialization.data(withJSONObject: object, options: [.sortedKeys, .prettyPrinted])
        return String(decoding: data, as: UTF8.self)
    }
}
