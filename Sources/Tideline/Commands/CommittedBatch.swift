import Changes
import Core

/// Where one committed batch stands in a log.
struct CommittedBatch {
    let partition: Int
    let seq: UInt64
    /// One core commits one batch after another, so the sum of all positions that a batch knew is its place among them.
    private let order: UInt64

    /// All batches of a log, in the order in which its core committed them.
    static func inOrder(_ reader: any LogReader) throws -> [CommittedBatch] {
        var batches: [CommittedBatch] = []
        for partition in 0..<reader.partitions {
            try unsafe reader.changelog(of: partition, after: 0) { seq, encoded in
                let frontier = try unsafe ChangeBatch(decoding: encoded).frontier
                batches.append(
                    CommittedBatch(partition: partition, seq: seq, order: frontier.reduce(seq) { $0 + $1.seq }))
                return true
            }
        }
        batches.sort { $0.order < $1.order }
        return batches
    }

    func changes(_ reader: any LogReader) throws -> ChangeBatch? {
        var batch: ChangeBatch?
        try unsafe reader.changelog(of: partition, after: seq - 1) { _, encoded in
            batch = try unsafe ChangeBatch(decoding: encoded)
            return false
        }
        return batch
    }
}
