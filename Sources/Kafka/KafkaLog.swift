internal import Foundation
import Changes
import Core
import Service
import Storage

/// The log in Kafka: events from an input topic, and one transaction a batch that carries scores, changes, dead letters
/// and, in the change batch, the position.
///
/// The protocol, and why it is so, is specified in TLA+ (docs/architecture.md says where). In short: a partition's two
/// transactional ids are used in turn, the next begun when the last was acknowledged; a takeover initialises both, the
/// first one first, then reads the changelog to its end.
///
/// `@unchecked Sendable`: `owned` and `heads` are guarded by the lock; one commit runs at a time.
package final class KafkaLog: IngestLog, @unchecked Sendable {
    package let stored: KafkaLogReader
    package var reader: any LogReader { stored }
    package var lineage: Lineage { stored.lineage }
    package var partitions: Int { stored.partitions }
    private let configuration: KafkaConfiguration
    private let log: Log
    private let clock: any WallClock
    private var membership: Membership
    private let contact: Contact
    private let slot: Int
    /// When this worker found itself fenced out of its slot, lately.
    private var fencings: [Int64] = []
    private let ingest: KafkaIngest
    private let fetcher: KafkaClient
    private let wake = KafkaWake()
    private let recent: RecentBatches
    private let follower: KafkaLogReader
    private let lock = NSLock()
    private var owned: [Int: OwnedPartition] = [:]
    private var heads: [Int: UInt64] = [:]
    /// Partitions that were lost to another's claim, or could not be taken, and are still ours by the group.
    private var retakes: [Int] = []
    private var turn = 0
    private var nextReport: Int64 = 0
    /// Called after each commit, on the thread that commits: wakes the relay.
    package var onCommit: (@Sendable (_ partition: Int, _ seq: UInt64) -> Void)?
    private let acceptsGap: Bool
    private let begin: Beginning

    /// Where a pipeline without a changelog begins in an input that holds events, unless its group has a position.
    package enum Beginning: String, CaseIterable, Sendable { case earliest, latest }

    /// Joins the group in a slot. Fails where the topics are not there.
    package init(
        _ configuration: KafkaConfiguration, slot: Int, begin: Beginning = .earliest, acceptsGap: Bool = false,
        log: Log,
        clock: any WallClock = SystemClock()
    ) throws {
        self.begin = begin
        self.configuration = configuration
        self.log = log
        self.clock = clock
        self.acceptsGap = acceptsGap
        stored = try KafkaLogReader(configuration, founds: true, log: log)
        follower = try KafkaLogReader(configuration, founds: false, fetchWait: 100, log: log)
        recent = RecentBatches(partitions: stored.partitions)
        let hooks = ClientHooks()
        hooks.log = log
        fetcher = try KafkaClient(.consumer, configuration.reading("input", fetchWait: 100), hooks: hooks)
        ingest = try KafkaIngest(configuration, log: log)
        self.slot = slot
        contact = Contact(clock)
        membership = try Membership(
            configuration, instance: configuration.instance(slot: slot), contact: contact, log: log)
    }

    // MARK: the scoring loop's side

    package func next(into batch: EventBatch, waitMicroseconds: Int) throws -> LogStep {
        let deadline = clock.now + Int64(waitMicroseconds)
        while true {
            if let step = try change() { return step }
            let now = clock.now
            reportPositions(now)
            var wakeAt = deadline
            for step in 0..<partitions {
                let partition = (turn + step) % partitions
                guard let (place, input) = reading(partition) else { continue }
                let waiting = input.waiting
                guard waiting > 0 else { continue }
                let due = place.takenAt + configuration.commitIntervalMicroseconds
                guard due <= now || waiting >= batch.eventsMax / 4 else {
                    wakeAt = min(wakeAt, due)
                    continue
                }
                if try fill(batch, partition, place, input) {
                    place.takenAt = now
                    turn = (partition + 1) % partitions
                    return .events(partition: partition)
                }
            }
            guard now < deadline else { return .idle }
            // The group is served now and then, whatever comes.
            wake.wait(microseconds: min(wakeAt - now, 20_000))
        }
    }

    private func change() throws -> LogStep? {
        let retake = lock.withLock { retakes.popLast() }
        if let partition = retake {
            if membership.isOwned(partition) { return .assigned(partition: partition) }
            membership.lost(partition)
        }
        let change: Membership.Change?
        do { change = try membership.poll() } catch { return try rejoin(error) }
        switch change {
        case .assigned(let partition):
            log.info("assigned", ["partition": partition])
            return .assigned(partition: partition)
        case .revoked(let partition):
            log.info("revoked", ["partition": partition])
            giveUp(partition)
            return .revoked(partition: partition)
        case nil: return nil
        }
    }

    /// A worker whose session ended while the brokers were away is fenced by its own former self: it joins anew. One whose
    /// slot another worker holds would be fenced again and again: then the error stands.
    private func rejoin(_ error: any Error) throws -> LogStep? {
        let now = clock.now
        fencings = fencings.filter { $0 > now - 60_000_000 } + [now]
        guard fencings.count <= 3 else { throw error }
        log.warning("joining the group anew", ["because": "\(error)", "times": fencings.count])
        for partition in 0..<partitions { giveUp(partition) }
        lock.withLock { retakes.removeAll() }
        membership = try Membership(
            configuration, instance: configuration.instance(slot: slot), contact: contact, log: log)
        return .revoked(partition: nil)
    }

    /// What is read of a partition. Whoever commits may lose the partition meanwhile.
    private func reading(_ partition: Int) -> (OwnedPartition, PartitionReader)? {
        lock.withLock { owned[partition].flatMap { place in place.input.map { (place, $0) } } }
    }

    /// The partition is not ours any more. Its reader ends here: a client reads a partition once at a time.
    private func giveUp(_ partition: Int) {
        let (place, input) = lock.withLock {
            heads[partition] = nil
            let place = owned.removeValue(forKey: partition)
            defer { place?.input = nil }
            return (place, place?.input)
        }
        // Not under the lock: the end of a reader waits for a thread of the library.
        withExtendedLifetime(input) {}
        place?.retire()
    }

    private func fill(
        _ batch: EventBatch, _ partition: Int, _ place: OwnedPartition, _ input: PartitionReader
    ) throws -> Bool {
        batch.begin(partition: partition, firstOffset: place.position)
        var any = true
        var fits = true
        while any, fits {
            any = try input.read(waitMilliseconds: 0) { record in
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
        guard batch.count > 0 else { return false }
        place.position = batch.endOffset
        return true
    }

    package func seek(partition: Int, to offset: UInt64) throws {
        guard let place = lock.withLock({ owned[partition] }) else { return }
        let (low, high) = try fetcher.watermarks(configuration.input, partition)
        var start = offset
        if offset == 0, lock.withLock({ heads[partition] }) == 0 {
            start = try beginning(of: partition, low: UInt64(max(0, low)), high: UInt64(max(0, high)))
        }
        if start < UInt64(max(0, low)) {
            guard acceptsGap || offset == 0 else {
                throw KafkaLogError.positionDeleted(partition: partition, position: offset, first: UInt64(low))
            }
            if offset > 0 { log.warning("gap accepted", ["partition": partition, "from": offset, "to": low]) }
            start = UInt64(low)
        }
        guard start <= UInt64(max(0, high)) else {
            throw KafkaLogError.positionBeyondEnd(partition: partition, position: offset, end: UInt64(max(0, high)))
        }
        // The old reader ends first: a client reads a partition once at a time.
        lock.withLock {
            place.input = nil
            place.settled = start
        }
        place.position = offset
        let input = try PartitionReader(
            fetcher, topic: configuration.input, partition: partition, from: Int64(start), wake: wake)
        lock.withLock { place.input = input }
        wake.set()
    }

    /// Where a partition without a changelog begins. The group's position goes before `begin`: a core that was told `latest`
    /// and ended before its first commit goes on where it began.
    private func beginning(of partition: Int, low: UInt64, high: UInt64) throws -> UInt64 {
        if let reported = try membership.reported(partition), (low...high).contains(reported) { return reported }
        let start = begin == .latest ? high : low
        if start > 0 { log.info("begins", ["partition": partition, "offset": start, "at": begin.rawValue]) }
        membership.report([partition: start])
        return start
    }

    package func takeOver(partition: Int) throws {
        giveUp(partition)
        let place = try OwnedPartition(partition, configuration, log: log)
        try place.takeOver()
        // Nothing is open now: what stands in the changelog is all that there is.
        let end = try stored.changelogEnd(of: partition)
        lock.withLock {
            owned[partition] = place
            heads[partition] = end
        }
    }

    package func commit(_ commit: StagedCommit) throws -> CommitOutcome {
        guard let place = lock.withLock({ owned[commit.partition] }) else { return .lost }
        let outcome = try place.commit(commit) { [stored] in try stored.changelogEnd(of: commit.partition) }
        switch outcome {
        case .committed:
            contact.heard()
            unsafe recent.append(commit.partition, commit.seq, unsafe commit.changes)
            lock.withLock {
                heads[commit.partition] = commit.seq
                place.settled = commit.endOffset
            }
            onCommit?(commit.partition, commit.seq)
        case .aborted: log.warning("aborted", ["partition": commit.partition, "seq": commit.seq])
        case .lost:
            log.warning("lost to another worker", ["partition": commit.partition, "seq": commit.seq])
            giveUp(commit.partition)
            lock.withLock { retakes.append(commit.partition) }
        }
        return outcome
    }

    /// Once a second, for lag tools, and for a pipeline that has not committed yet.
    private func reportPositions(_ now: Int64) {
        guard now >= nextReport else { return }
        nextReport = now + 1_000_000
        membership.report(lock.withLock { owned.compactMapValues(\.settled) })
    }

    // MARK: reading

    package func changelog(
        of partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ encoded: UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        // What this process has committed lately is at hand.
        if try unsafe recent.batches(partition, after: seq, visit) { return }
        try unsafe stored.changelog(of: partition, after: seq, visit)
    }

    package func follow(
        partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws { try unsafe follower.fetched(of: partition, after: seq, visit) }

    package func changelogEnd(of partition: Int) -> UInt64? { lock.withLock { heads[partition] } }

    package var isAnswering: Bool { contact.isRecent }

    package var memory: StoreMemory? { nil }

    package func close() {
        membership.report(lock.withLock { owned.compactMapValues(\.settled) })
        lock.withLock { owned.removeAll() }
    }

    // MARK: ingest

    package func append(
        _ events: borrowing AppendRequest,
        acknowledged: @escaping @Sendable (Result<[Int: UInt64], any Error>) -> Void
    ) throws { try ingest.append(events, acknowledged: acknowledged) }

    package var backlog: (events: UInt64, oldestAppendTime: Int64) {
        let waiting = lock.withLock { owned.values.reduce(0) { $0 + ($1.input?.queued ?? 0) } }
        return (UInt64(waiting), 0)
    }
}
