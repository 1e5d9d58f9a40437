import Changes
import Core

/// Where one committed batch stands in a log.
struct CommittedBatch {
    let partition: Int
    let seq: UInt64
    /// One core commits one batch after another, so the sum of all positions that a batch knew is its place among them.
    private let order: UInt64
    private let frontier: [PartitionPosition]

    /// All batches of a log, in the order in which its core committed them. Where the log goes on meanwhile, up to the
    /// first one that read what is not among them.
    static func inOrder(_ reader: any LogReader) throws -> [CommittedBatch] {
        var batches: [CommittedBatch] = []
        for partition in 0..<reader.partitions {
            try unsafe reader.changelog(of: partition, after: 0) { seq, encoded in
                let frontier = try unsafe ChangeBatch(decoding: encoded).frontier
                batches.append(
                    CommittedBatch(
                        partition: partition, seq: seq, order: frontier.reduce(seq) { $0 + $1.seq }, frontier: frontier)
                )
                return true
            }
        }
        batches.sort { $0.order < $1.order }
        var ends = [UInt64](repeating: 0, count: reader.partitions)
        for batch in batches { ends[batch.partition] = max(ends[batch.partition], batch.seq) }
        return Array(batches.prefix { $0.frontier.allSatisfy { ends[Int($0.partition)] >= $0.seq } })
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
