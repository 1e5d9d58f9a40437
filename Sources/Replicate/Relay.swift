import Changes
import Service

/// Publishes what the log has committed, says where it stands, and answers repairs from the log.
///
/// Any number of relays may run: what they publish is decided by the log, so duplicates are harmless and no lock is
/// needed. One thread calls `step`.
package final class Relay {
    package struct Configuration: Sendable {
        package var heartbeatMicroseconds: Int64 = 1_000_000
        /// Batches that one step sends before it looks at heartbeats and repairs again.
        package var batchesPerStep = 64
        /// A relay that finds nothing of ours on the bus begins so many batches before the log's end: replicas ask
        /// for the rest.
        package var backlogMax: UInt64 = 1000

        package init() {}
    }

    private let source: any ChangelogSource
    private let publisher: any DeltaPublisher
    private let clock: any WallClock
    private let configuration: Configuration
    private let log: Log
    /// Another for each process that ever speaks for the log.
    private let sender = UInt64.random(in: 1 ... .max)
    private var published: [UInt64?]
    private var nextHeartbeat: Int64 = 0
    private var repairing: (repair: PendingRepair, after: UInt64)?
    package let figures = RelayFigures()

    package init(
        source: any ChangelogSource, publisher: any DeltaPublisher, log: Log, configuration: Configuration = .init(),
        clock: any WallClock = SystemClock()
    ) {
        self.source = source
        self.publisher = publisher
        self.log = log
        self.configuration = configuration
        self.clock = clock
        published = Array(repeating: nil, count: source.partitions)
    }

    /// Sends what can be sent now. Returns whether there is more to do at once.
    package func step() throws -> Bool {
        var more = false
        guard publisher.isConnected else { return false }
        let now = clock.now
        for partition in 0..<source.partitions { more = try publish(partition) || more }
        more = try repair() || more
        if now >= nextHeartbeat {
            nextHeartbeat = now + configuration.heartbeatMicroseconds
            // What it says is no older than this.
            let sent = clock.unset
            let heads = try (0..<source.partitions).compactMap { try source.head(of: $0) }
            try publisher.publish(
                Heartbeat(
                    lineage: source.lineage, sentAt: now, sender: sender, sent: sent, partitions: source.partitions,
                    heads: heads))
        }
        return more
    }

    private func publish(_ partition: Int) throws -> Bool {
        let end = try source.end(of: partition)
        // Nothing there, or not ours: where it begins is found out when it is.
        guard end > 0 else {
            published[partition] = nil
            return false
        }
        let start = try published[partition] ?? begin(partition, end: end)
        var sent = start
        var full = false
        if start < end {
            try unsafe source.batches(of: partition, after: start) { seq, encoded in
                let id = "\(source.lineage):\(partition):\(seq)"
                guard try unsafe publisher.publish(encoded, partition: UInt32(partition), messageId: id) else {
                    full = true
                    return false
                }
                figures.published(bytes: encoded.count)
                sent = seq
                return sent - start < UInt64(configuration.batchesPerStep)
            }
        }
        published[partition] = sent
        return !full && sent < end
    }

    /// Where to go on after a start: behind what the bus holds already.
    private func begin(_ partition: Int, end: UInt64) throws -> UInt64 {
        if let last = try publisher.lastPublished(partition: UInt32(partition)), last.lineage == source.lineage,
            last.seq <= end
        {
            return last.seq
        }
        return end > configuration.backlogMax ? end - configuration.backlogMax : 0
    }

    /// Answers at most a step's worth of one request.
    private func repair() throws -> Bool {
        if repairing == nil, let next = publisher.nextRepair() {
            guard next.request.lineage == source.lineage, Int(next.request.partition) < source.partitions else {
                return true
            }
            log.info(
                "repairing",
                ["partition": next.request.partition, "after": next.request.after, "through": next.request.through])
            repairing = (next, next.request.after)
        }
        guard let (repair, after) = repairing else { return false }
        var sent = after
        try unsafe source.batches(of: Int(repair.request.partition), after: after) { seq, encoded in
            guard seq <= repair.request.through else { return false }
            try unsafe repair.answer(encoded)
            figures.repaired()
            sent = seq
            return sent - after < UInt64(configuration.batchesPerStep)
        }
        let done = sent == after || sent >= repair.request.through
        repairing = done ? nil : (repair, sent)
        return true
    }
}
