import Changes
import Core
import Replicate

/// The core's own log, as its relay reads it.
struct OwnChangelog: ChangelogSource {
    let log: any IngestLog
    let figures: CoreFigures

    var lineage: Lineage { log.lineage }
    var partitions: Int { log.partitions }

    func end(of partition: Int) -> UInt64 { log.changelogEnd(of: partition) ?? 0 }

    func batches(
        of partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws { try unsafe log.changelog(of: partition, after: seq, visit) }

    func head(of partition: Int) -> Heartbeat.Head? {
        let position = figures.current.positions[partition]
        guard let end = log.vouchedEnd(of: partition) else { return nil }
        guard let position, position.seq == end else {
            return .init(partition: UInt32(partition), seq: end, digest: 0, commitTime: 0, watermark: 0)
        }
        return .init(
            partition: UInt32(partition), seq: end, digest: position.digest, commitTime: position.commitTime,
            watermark: position.watermark)
    }
}

/// Another process's log, as a relay of its own follows it.
struct FollowedChangelog: ChangelogSource {
    let reader: any LogReader

    var lineage: Lineage { reader.lineage }
    var partitions: Int { reader.partitions }

    func end(of partition: Int) throws -> UInt64 { try reader.changelogEnd(of: partition) }

    func batches(
        of partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws { try unsafe reader.changelog(of: partition, after: seq, visit) }

    /// Without a digest: this relay has not applied the log.
    func head(of partition: Int) throws -> Heartbeat.Head? {
        .init(partition: UInt32(partition), seq: try end(of: partition), digest: 0, commitTime: 0, watermark: 0)
    }
}
