import Changes
import Edge

/// A dictionary model of what the log must hold: it reads each batch the moment that its transaction is decided.
///
/// Each input offset is scored once, dropped as a duplicate of a remembered id, a dead letter, or nothing; seq is dense;
/// features are counts and sums that dictionaries keep; what a batch read of other partitions was decided before it.
final class Oracle {
    private struct Partition {
        var sent: [EventSource.Sent] = []
        var seq: UInt64 = 0
        var position: UInt64 = 0
        var digest: UInt64 = 0
        var commitTime: Int64 = 0
        /// The digest, the position and each terminal's count after each batch, from before the first on.
        var digests: [UInt64] = [0]
        var terminals: [[Int]] = [Array(repeating: 0, count: EventSource.terminals)]
        /// When each batch could be read by all.
        var readableAt: [Int64] = [0]
        var customers: [Int: (count: Int, sum: Int)] = [:]
        /// Remembered ids, oldest first, and when the brokers took each.
        var remembered: [(id: Int, at: Int64)] = []
        /// When each id was scored last, and how many were before it.
        var scored: [Int: (at: Int64, number: Int)] = [:]
        var scoredCount = 0
        /// What was scored, by the order of the log.
        var rows: [(seq: UInt64, offset: UInt64, id: Int)] = []
    }

    private static let window = Int64(EventSource.duplicateSeconds) * 1_000_000

    private var partitions: [Partition]
    private let lineage: Lineage
    private(set) var violation: String?
    private(set) var scored = 0
    private(set) var duplicates = 0
    private(set) var deadLetters = 0

    init(lineage: Lineage, partitions count: Int) {
        self.lineage = lineage
        partitions = Array(repeating: Partition(), count: count)
    }

    /// Remembers the first thing that went wrong.
    func find(_ what: @autoclosure () -> String) { if violation == nil { violation = what() } }

    func sent(_ partition: Int, _ sent: EventSource.Sent) { partitions[partition].sent.append(sent) }

    /// The seq of the last decided batch.
    func head(_ partition: Int) -> UInt64 { partitions[partition].seq }
    func position(_ partition: Int) -> UInt64 { partitions[partition].position }

    /// The last batch that all could read by then.
    func head(_ partition: Int, by time: Int64) -> UInt64 {
        UInt64((partitions[partition].readableAt.lastIndex { $0 <= time }) ?? 0)
    }

    func readable(_ partition: Int, _ seq: UInt64, now: Int64) {
        guard violation == nil else { return }
        guard Int(seq) == partitions[partition].readableAt.count else {
            return find("batch \(seq) of partition \(partition) is read out of order")
        }
        partitions[partition].readableAt.append(now)
    }

    /// What a view that stands at a seq must have as its digest.
    func check(view: String, _ partition: Int, seq: UInt64, digest: UInt64?) {
        guard seq <= partitions[partition].seq else {
            return find("\(view) stands at \(seq) of partition \(partition), its log at \(partitions[partition].seq)")
        }
        if let digest, partitions[partition].digests[Int(seq)] != digest {
            find("\(view) differs from the log in partition \(partition) at \(seq)")
        }
    }

    /// A region finds each scored event that it has applied, once, and nothing else: of an id the newest.
    func check(_ census: RowCensus, of region: String) {
        guard violation == nil, census.hasReachedSnapshot else { return }
        for (partition, position) in census.positions.enumerated() {
            let seq = position?.seq ?? 0
            var newest: [Int: UInt64] = [:]
            for row in partitions[partition].rows where row.seq <= seq { newest[row.id] = row.offset }
            let due = newest.values.sorted()
            let found = census.offsets[partition]
            guard found != due else { continue }
            let missing = Set(due).subtracting(found).sorted()
            let wrong = Set(found).subtracting(due).sorted()
            let twice = Set(found.indices.dropFirst().filter { found[$0] == found[$0 - 1] }.map { found[$0] }).sorted()
            return find(
                "region \(region) finds other rows of partition \(partition) at \(seq), with snapshot "
                    + "\(census.snapshot): missing \(missing), wrong \(wrong), twice \(twice)")
        }
    }

    /// Every event that was sent is answered.
    var isComplete: Bool {
        partitions.allSatisfy { part in
            part.sent[Int(min(part.position, UInt64(part.sent.count)))...].allSatisfy {
                if case .nothing = $0 { true } else { false }
            }
        }
    }

    var waiting: String { partitions.map { "\($0.position)/\($0.sent.count)" }.joined(separator: " ") }

    // MARK: a decided batch

    func decided(_ partition: Int, _ record: SimulatedBrokers.Record, appendTimes: (Int) -> Int64) {
        guard violation == nil else { return }
        do {
            let batch = try unsafe record.changes.withUnsafeBytes { try unsafe ChangeBatch(decoding: $0) }
            try take(batch, partition, record, appendTimes)
        } catch { find("\(error)") }
    }

    private func take(
        _ batch: ChangeBatch, _ partition: Int, _ record: SimulatedBrokers.Record, _ appendTimes: (Int) -> Int64
    ) throws {
        let header = batch.header
        let name = "batch \(header.seq) of partition \(partition)"
        guard header.lineage == lineage else { throw Violation("\(name) is of another log") }
        guard header.seq == partitions[partition].seq + 1, record.seq == header.seq else {
            throw Violation("\(name) is decided where \(partitions[partition].seq + 1) was due")
        }
        guard header.firstOffset == partitions[partition].position else {
            throw Violation("\(name) begins at \(header.firstOffset), not at \(partitions[partition].position)")
        }
        guard Int(header.endOffset) <= partitions[partition].sent.count else {
            throw Violation("\(name) ends at \(header.endOffset), beyond the input")
        }
        for other in batch.frontier where other.seq > partitions[Int(other.partition)].seq {
            throw Violation("\(name) read \(other.seq) of partition \(other.partition), which is not decided")
        }
        var found: [(offset: UInt64, features: [Float])] = []
        batch.forEachChange { change in
            guard change.kind == .event, let event = unsafe EventRecord(change.value) else { return }
            found.append((event.inputOffset, (0..<event.featureCount).map { event.feature($0) }))
        }
        let expected = answer(header, partition, batch.frontier, appendTimes)
        guard found.map(\.offset) == expected.rows.map(\.offset) else {
            throw Violation(
                "\(name) scores offsets \(found.map(\.offset)), where \(expected.rows.map(\.offset)) were due")
        }
        guard Int(header.duplicates) == expected.duplicates, Int(header.deadLetters) == expected.deadLetters else {
            throw Violation(
                "\(name) counts \(header.duplicates) duplicates and \(header.deadLetters) dead letters, where "
                    + "\(expected.duplicates) and \(expected.deadLetters) were due")
        }
        guard record.scoreLines == found.count, record.deadLetters == expected.deadLetters else {
            throw Violation(
                "\(name) has \(record.scoreLines) score lines and \(record.deadLetters) dead letters beside")
        }
        for (row, due) in zip(found, expected.rows) where row.features != due.features {
            throw Violation(
                "\(name) has features \(row.features) at offset \(row.offset), where \(due.features) were due")
        }
        for row in found {
            if case .event(let id, _, _, _) = partitions[partition].sent[Int(row.offset)] {
                partitions[partition].rows.append((header.seq, row.offset, id))
            }
        }
        scored += found.count
        duplicates += expected.duplicates
        deadLetters += expected.deadLetters
        partitions[partition].seq = header.seq
        partitions[partition].position = header.endOffset
        partitions[partition].digest = batch.digest(after: partitions[partition].digest)
        partitions[partition].digests.append(partitions[partition].digest)
    }

    private struct Expected {
        var rows: [(offset: UInt64, features: [Float])] = []
        var duplicates = 0
        var deadLetters = 0
    }

    /// What a batch of this range must say, by dictionaries.
    private func answer(
        _ header: ChangeBatchHeader, _ partition: Int, _ frontier: [PartitionPosition], _ appendTimes: (Int) -> Int64
    ) -> Expected {
        var expected = Expected()
        var terminals = partitions[partition].terminals[partitions[partition].terminals.count - 1]
        for offset in header.firstOffset..<header.endOffset {
            switch partitions[partition].sent[Int(offset)] {
            case .nothing: continue
            case .malformed: expected.deadLetters += 1
            case .event(let id, let customer, let terminal, let amount):
                if partitions[partition].remembered.contains(where: { $0.id == id }) {
                    expected.duplicates += 1
                    continue
                }
                let at = appendTimes(Int(offset))
                if let last = partitions[partition].scored[id], at - last.at <= Self.window,
                    partitions[partition].scoredCount - last.number < EventSource.duplicateIdsMax
                {
                    find(
                        "event e\(id) is scored twice within the window, at offset \(offset) of partition \(partition)")
                }
                partitions[partition].scored[id] = (at, partitions[partition].scoredCount)
                partitions[partition].scoredCount += 1
                partitions[partition].remembered.append((id, at))
                terminals[terminal] += 1
                let known = partitions[partition].customers[customer] ?? (0, 0)
                let now = (count: known.count + 1, sum: known.sum + amount)
                partitions[partition].customers[customer] = now
                let others = frontier.reduce(0) {
                    $0 + partitions[Int($1.partition)].terminals[Int($1.seq)][terminal]
                }
                expected.rows.append(
                    (offset, [Float(amount), Float(now.count), Float(now.sum), Float(terminals[terminal] + others)]))
            }
        }
        partitions[partition].terminals.append(terminals)
        let remembered = partitions[partition].remembered
        let oldest = (remembered.last?.at ?? 0) - Self.window
        var gone = 0
        while gone < remembered.count,
            remembered.count - gone > EventSource.duplicateIdsMax || remembered[gone].at < oldest
        { gone += 1 }
        partitions[partition].remembered.removeFirst(gone)
        return expected
    }
}
