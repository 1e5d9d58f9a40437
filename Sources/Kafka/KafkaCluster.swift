internal import Foundation
import Changes
import Core
import Service
import Transactions

/// The brokers of a Kafka cluster, as the commit protocol uses them through librdkafka.
final class KafkaCluster: Cluster {
    let stored: KafkaLogReader
    let configuration: KafkaConfiguration
    let roster: RosterTopic
    private let log: Log
    private let follower: KafkaLogReader
    private let fetcher: KafkaClient
    /// Sees what is written, whether or not it is committed.
    private let witness: KafkaClient
    private let arrivals = KafkaWake()

    var lineage: Lineage { stored.lineage }
    var partitions: Int { stored.partitions }

    /// Opens it, and opens it again where the brokers are away for a moment, as in a rolling restart: a core that answered
    /// to that by its end would be started again and again.
    static func open(_ configuration: KafkaConfiguration, log: Log, patienceSeconds: Double = 30) throws -> KafkaCluster
    {
        let deadline = Date(timeIntervalSinceNow: patienceSeconds)
        while true {
            do { return try KafkaCluster(configuration, log: log) } catch let error as KafkaError
                where error.isRetriable && Date() < deadline
            {
                log.warning("kafka: waiting for the brokers", ["because": error.description])
                Thread.sleep(forTimeInterval: 0.5)
            }
        }
    }

    /// Fails where the topics are not there.
    init(_ configuration: KafkaConfiguration, log: Log) throws {
        self.configuration = configuration
        self.log = log
        stored = try KafkaLogReader(configuration, founds: true, log: log)
        follower = try KafkaLogReader(configuration, founds: false, fetchWait: 100, ends: stored.ends, log: log)
        let hooks = ClientHooks()
        hooks.log = log
        fetcher = try KafkaClient(.consumer, configuration.reading("input", fetchWait: 100), hooks: hooks)
        witness = try KafkaClient(.consumer, configuration.witnessing("witness"), hooks: hooks)
        // A cold client's first question takes a fifth of a second.
        _ = try witness.watermarks(configuration.changes, 0)
        roster = try RosterTopic(configuration, log: log)
    }

    func makeProducer(of partition: Int, id: Int) throws -> PartitionProducer {
        try PartitionProducer(configuration, partition: partition, id: id, log: log)
    }

    /// Where clients are destroyed, which takes a tenth of a second each: nobody waits for it.
    private static let reaper = DispatchQueue(label: "tideline.kafka.reaper")

    func drop(_ producer: PartitionProducer) { retire(producer) }

    func retire(_ owner: any Sendable) { Self.reaper.async { withExtendedLifetime(owner) {} } }

    /// Where takeovers run, each waiting for the brokers most of its time.
    private let takeovers = DispatchQueue(label: "tideline.kafka.takeovers", attributes: .concurrent)

    func beside(_ body: @escaping @Sendable () -> Void) { takeovers.async(execute: body) }

    func isTaken(slot: Int) -> Bool { roster.isTaken(slot) }

    func join(slot: Int) throws -> Membership {
        try Membership(configuration, instance: configuration.instance(slot: slot), log: log)
    }

    func isSettled(_ partition: Int) throws -> Bool {
        // In this order: what is written meanwhile is another's.
        let written = try witness.watermarks(configuration.changes, partition).high
        return try fetcher.watermarks(configuration.changes, partition).high >= written
    }

    func inputBounds(of partition: Int) throws -> (low: UInt64, high: UInt64) {
        let (low, high) = try fetcher.watermarks(configuration.input, partition)
        return (UInt64(max(0, low)), UInt64(max(0, high)))
    }

    func readInput(of partition: Int, from offset: UInt64) throws -> PartitionReader {
        try PartitionReader(
            fetcher, topic: configuration.input, partition: partition, from: Int64(offset), wake: arrivals)
    }

    func wait(microseconds: Int64) { arrivals.wait(microseconds: microseconds) }

    func rest(microseconds: Int64) { Thread.sleep(forTimeInterval: Double(microseconds) / 1_000_000) }

    func wake() { arrivals.set() }

    func changelogEnd(of partition: Int) throws -> UInt64 { try stored.ends.end(of: partition) }

    func changelog(
        of partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws { try unsafe stored.changelog(of: partition, after: seq, visit) }

    func follow(
        partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws { try unsafe follower.fetched(of: partition, after: seq, visit) }
}

extension PartitionReader: InputReader {
    func fill(_ batch: EventBatch) throws {
        var any = true
        var fits = true
        while any, fits {
            any = try read(waitMilliseconds: 0) { record in
                let offset = UInt64(record.offset)
                // A position never goes back, whatever the client does.
                guard offset >= batch.endOffset else { return true }
                if unsafe batch.isFull || batch.count > 0 && batch.byteCount + record.value.count > batch.bytesMax {
                    fits = false
                    return false
                }
                unsafe batch.append(record.value, appendTime: record.time, offset: offset)
                return true
            }
        }
    }
}
