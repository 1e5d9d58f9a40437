import Changes
import Core

/// Where one committed batch stands in a log.
struct CommittedBatch {
    let partition: Int
    let seq: UInt64

    /// All batches of a log, each after those that it read, whichever core committed it. Where the log goes on meanwhile,
    /// what read a batch that is not among them is left out.
    static func inOrder(_ reader: any LogReader) throws -> [CommittedBatch] {
        var frontiers: [[[PartitionPosition]]] = []
        for partition in 0..<reader.partitions {
            var own: [[PartitionPosition]] = []
            try unsafe reader.changelog(of: partition, after: 0) { _, encoded in
                own.append(try unsafe ChangeBatch(decoding: encoded).frontier)
                return true
            }
            frontiers.append(own)
        }
        var batches: [CommittedBatch] = []
        batches.reserveCapacity(frontiers.reduce(0) { $0 + $1.count })
        var done = [Int](repeating: 0, count: reader.partitions)
        var moved = true
        while moved {
            moved = false
            for partition in frontiers.indices {
                while done[partition] < frontiers[partition].count,
                    frontiers[partition][done[partition]].allSatisfy({ done[Int($0.partition)] >= Int($0.seq) })
                {
                    done[partition] += 1
                    batches.append(CommittedBatch(partition: partition, seq: UInt64(done[partition])))
                    moved = true
                }
            }
        }
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
