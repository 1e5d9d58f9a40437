internal import Foundation
import Service

/// The seq of the last committed batch of each partition, asked of the brokers.
///
/// Partitions do not wait for each other, nor does a reader: one whose leader is dead keeps nobody else.
///
/// `@unchecked Sendable`: a partition's lock guards what is known of it, and its reading: a client reads a partition once at
/// a time.
final class ChangelogEnds: @unchecked Sendable {
    private final class Known {
        let lock = NSLock()
        /// By the end of the topic at which it was found.
        var last: (high: Int64, seq: UInt64)?
    }

    private let topic: String
    private let client: KafkaClient
    private let known: [Known]

    init(_ configuration: KafkaConfiguration, partitions: Int, log: Log) throws(KafkaError) {
        topic = configuration.changes
        let hooks = ClientHooks()
        hooks.log = log
        client = try KafkaClient(.consumer, configuration.reading("ends", fetchWait: 10), hooks: hooks)
        known = (0..<partitions).map { _ in Known() }
    }

    /// 0 before the first batch.
    func end(of partition: Int) throws -> UInt64 {
        let known = known[partition]
        known.lock.lock()
        defer { known.lock.unlock() }
        let (low, high) = try client.watermarks(topic, partition)
        if let last = known.last, last.high == high { return last.seq }
        let seq = try lastSeq(partition, low: low, high: high)
        known.last = (high, seq)
        return seq
    }

    /// The seq of the last batch before `high`; 0 where there is none.
    private func lastSeq(_ partition: Int, low: Int64, high: Int64) throws -> UInt64 {
        // The last record stands before a marker, and before what was aborted: look back in growing steps.
        var step: Int64 = 8
        var seq: UInt64 = 0
        while high > low {
            let from = max(low, high - step)
            try client.records(topic, partition, from: from, to: high) { record in
                if let found = unsafe KafkaLogReader.seq(record.value) { seq = found }
                return true
            }
            if seq > 0 || from == low { break }
            step *= 8
        }
        return seq
    }
}
