import Changes

/// The changelog as a relay reads it: the core's own, or another process's.
package protocol ChangelogSource: Sendable {
    var lineage: Lineage { get }
    var partitions: Int { get }
    /// The seq of a partition's last committed batch.
    func end(of partition: Int) throws -> UInt64
    /// Visits committed batches after `seq`, in order, while `visit` says so.
    func batches(
        of partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ encoded: UnsafeRawBufferPointer) throws -> Bool) throws
    /// What a heartbeat says of the partition's head.
    func head(of partition: Int) throws -> Heartbeat.Head?
}
