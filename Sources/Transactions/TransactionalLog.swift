internal import Foundation
import Changes
import Core
import Service

/// The log in a cluster of brokers: who owns a partition, one transaction a batch, and takeovers.
///
/// The protocol, and why it is so, is specified in TLA+ (docs/spec). In short: a partition's two transactional ids are
/// used in turn, the next begun when the last was acknowledged; a takeover initialises both, the first one first, then
/// reads the changelog to its end, and the input goes on where the last batch ended.
///
/// `@unchecked Sendable`: `owned`, `heads` and `retakes` are guarded by the lock; one commit runs at a time; the rest is
/// the scoring loop's alone.
package final class TransactionalLog<Brokers: Cluster>: EventLog, @unchecked Sendable {
    package let cluster: Brokers
    package var lineage: Lineage { cluster.lineage }
    package var partitions: Int { cluster.partitions }
    private let configuration: Configuration
    private let log: Log
    private let clock: any WallClock
    /// `nil` while no slot is ours: a standby follows, and takes nothing.
    private var group: Brokers.Group?
    private var slot: Int?
    private let takeovers: Takeovers<Brokers>
    private let recent: RecentBatches
    private let lock = NSLock()
    private var owned: [Int: OwnedPartition<Brokers>] = [:]
    private var heads: [Int: UInt64] = [:]
    /// Partitions that were lost to another's claim, or could not be taken, and are still ours by the group.
    private var retakes: [Int] = []
    /// Partitions in which another has committed, by the head that we knew.
    private var takenSilently: [(partition: Int, head: UInt64)] = []
    private var takeOvers = 0
    /// A slot that was given to us and not yet taken; guarded by the lock.
    private var givenSlot: Int?
    private var turn = 0
    private var nextReport: Int64 = 0
    /// Called after each commit, on the thread that commits: wakes the relay.
    package var onCommit: (@Sendable (_ partition: Int, _ seq: UInt64) -> Void)?

    package struct Configuration: Sendable {
        /// Between a partition's commits while events trickle, microseconds: a transaction costs the same whatever its
        /// size.
        package var commitIntervalMicroseconds: Int64 = 8000
        package var begin = Beginning.earliest
        /// Goes on where the input's retention has deleted events that were not scored.
        package var acceptsGap = false
        /// Waits for another slot when its own is claimed, where it would else fail.
        package var standsBy = false
        /// The simulation's alone.
        package var variant = ProtocolVariant.sound

        package init() {}
    }

    /// Joins the group in a slot; without one it stands by until `sit`.
    package init(
        _ cluster: Brokers, _ configuration: Configuration = .init(), slot: Int?, log: Log,
        clock: any WallClock = SystemClock()
    ) throws {
        self.cluster = cluster
        self.configuration = configuration
        self.log = log
        self.clock = clock
        self.slot = slot
        recent = RecentBatches(partitions: cluster.partitions)
        takeovers = Takeovers(cluster)
        if let slot { group = try cluster.join(slot: slot) }
    }

    /// The slot is ours: the next step joins the group in it. Any thread may say so.
    package func sit(in slot: Int) {
        lock.withLock { givenSlot = slot }
        cluster.wake()
    }

    // MARK: the scoring loop's side

    package func next(into batch: EventBatch, waitMicroseconds: Int) throws -> LogStep {
        let deadline = clock.now + Int64(waitMicroseconds)
        while true {
            if let step = try change() { return step }
            let now = clock.now
            if isTakenSilently(now), let step = try change() { return step }
            reportPositions(now)
            var wakeAt = deadline
            for step in 0..<partitions {
                let partition = (turn + step) % partitions
                guard let (place, input, resumeAt) = reading(partition) else { continue }
                let waiting = input.waiting
                guard waiting > 0 else { continue }
                guard resumeAt <= now else {
                    wakeAt = min(wakeAt, resumeAt)
                    continue
                }
                let due = place.takenAt + configuration.commitIntervalMicroseconds
                guard due <= now || waiting >= batch.eventsMax / 4 else {
                    wakeAt = min(wakeAt, due)
                    continue
                }
                batch.begin(partition: partition, firstOffset: place.position)
                try input.fill(batch)
                if batch.count > 0 {
                    place.position = batch.endOffset
                    place.takenAt = now
                    turn = (partition + 1) % partitions
                    return .events(partition: partition)
                }
            }
            guard now < deadline else { return .idle }
            // The group is served now and then, whatever comes.
            cluster.wait(microseconds: min(wakeAt - now, 20_000))
        }
    }

    private func change() throws -> LogStep? {
        if let given = lock.withLock({ givenSlot.take() }) {
            // What we have by another slot goes first: a worker is in the group once.
            let wasSeated = group != nil
            if wasSeated { leaveAll() }
            slot = given
            group = try cluster.join(slot: given)
            if wasSeated { return .revoked(partition: nil) }
        }
        guard let group else { return nil }
        if let partition = lock.withLock({ retakes.popLast() }) {
            if group.isOwned(partition) { beginTakeover(of: partition) } else { group.lost(partition) }
        }
        let change: GroupAssignment.Change?
        do { change = try group.poll() } catch { return try rejoin(error) }
        switch change {
        case .assigned(let partition):
            log.info("assigned", ["partition": partition])
            beginTakeover(of: partition)
        case .revoked(let partition):
            log.info("revoked", ["partition": partition])
            giveUp(partition)
            return .revoked(partition: partition)
        case nil: break
        }
        guard let taken = try takeovers.next() else { return nil }
        install(taken)
        return .assigned(partition: taken.partition)
    }

    /// A worker whose session ended while the brokers were away is fenced by its own former self: it joins anew. One whose
    /// slot another worker has claimed stands by, or ends.
    private func rejoin(_ error: any Error) throws -> LogStep? {
        leaveAll()
        guard let slot else { return .revoked(partition: nil) }
        if cluster.isTaken(slot: slot) {
            log.warning("the slot was taken by another worker", ["slot": slot, "because": "\(error)"])
            guard configuration.standsBy else { throw SlotTaken(slot: slot) }
            self.slot = nil
            return .revoked(partition: nil)
        }
        log.warning("joining the group anew", ["because": "\(error)"])
        group = try cluster.join(slot: slot)
        return .revoked(partition: nil)
    }

    private func leaveAll() {
        for partition in 0..<partitions { giveUp(partition) }
        lock.withLock { retakes.removeAll() }
        group = nil
    }

    /// What is read of a partition, and from when on. Whoever commits may lose the partition meanwhile.
    private func reading(_ partition: Int) -> (OwnedPartition<Brokers>, Brokers.Input, resumeAt: Int64)? {
        lock.withLock { owned[partition].flatMap { place in place.input.map { (place, $0, place.resumeAt) } } }
    }

    /// The partition is not ours any more. Its reader ends here: a client reads a partition once at a time.
    private func giveUp(_ partition: Int) {
        takeovers.cancel(partition)
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

    package func seek(partition: Int, to end: UInt64) throws {
        guard let place = lock.withLock({ owned[partition] }) else { return }
        let offset = configuration.variant == .positionFromGroup ? try group?.reported(partition) ?? end : end
        let start: UInt64
        do { start = try beginning(of: place, partition, at: offset) } catch let error as PositionError {
            // The other partitions go on.
            log.error("partition halted", ["partition": partition, "because": error.description])
            lock.withLock {
                place.input = nil
                place.halted = error
            }
            return
        }
        // The old reader ends first: a client reads a partition once at a time.
        lock.withLock {
            place.input = nil
            // Going on behind a batch that is not committed yet settles nothing.
            place.settled = min(start, place.settled ?? start)
            place.halted = nil
        }
        place.position = offset
        let input = try cluster.readInput(of: partition, from: start)
        lock.withLock { place.input = input }
        if place.beganAt == 0 { (place.beganAt, place.beganFrom) = (clock.now, start) }
        cluster.wake()
    }

    /// Where reading goes on: at a position of the changelog, if the input has it; without a changelog where it is told to.
    private func beginning(
        of place: OwnedPartition<Brokers>, _ partition: Int, at offset: UInt64
    ) throws -> UInt64 {
        // After an abort reading goes back to where it was: the input had that.
        guard place.beganAt == 0 else { return max(offset, place.beganFrom) }
        if offset > place.inputBounds.high {
            // They are as old as the takeover. This process may have stood still since, another may have scored what came, and
            // our view may have followed it: the next commit is fenced, and nothing is wrong with the input.
            place.inputBounds = try Patience(cluster, log).with("input's ends", partition) {
                try cluster.inputBounds(of: partition)
            }
        }
        let (low, high) = place.inputBounds
        var start = offset
        if offset == 0, lock.withLock({ heads[partition] }) == 0 {
            start = firstBeginning(of: partition, reported: place.reported, low: low, high: high)
        }
        if start < low {
            guard configuration.acceptsGap || offset == 0 else {
                throw PositionError.deleted(partition: partition, position: offset, first: low)
            }
            if offset > 0 { log.warning("gap accepted", ["partition": partition, "from": offset, "to": low]) }
            start = low
        }
        guard start <= high else {
            throw PositionError.beyondEnd(partition: partition, position: offset, end: high)
        }
        // An operator may have set it: that has no effect, and nobody should wait for one.
        if let reported = place.reported, reported != start {
            log.info(
                "the group's offset is for lag tools: the changelog decides",
                ["partition": partition, "group": reported, "changelog": start])
        }
        return start
    }

    /// Where a partition without a changelog begins. The group's position goes before `begin`: a core that was told `latest`
    /// and ended before its first commit goes on where it began.
    private func firstBeginning(of partition: Int, reported: UInt64?, low: UInt64, high: UInt64) -> UInt64 {
        if let reported, (low...high).contains(reported) { return reported }
        let start = configuration.begin == .latest ? high : low
        if start > 0 {
            log.info("begins", ["partition": partition, "offset": start, "at": configuration.begin.rawValue])
        }
        group?.report([partition: start])
        return start
    }

    /// Makes the partition ours: nobody else's transaction is open on it or can still be committed. After it `changelog`
    /// gives all that there is.
    package func takeOver(partition: Int) throws {
        giveUp(partition)
        install(try takeover(of: partition)())
    }

    private func beginTakeover(of partition: Int) {
        giveUp(partition)
        takeovers.begin(partition, takeover(of: partition))
    }

    private func takeover(of partition: Int) -> @Sendable () throws -> Takeovers<Brokers>.Taken {
        let place = OwnedPartition(
            partition, cluster, log: log, variant: configuration.variant, takeOvers: takeOvers, assignedAt: clock.now)
        takeOvers += 1
        return { [cluster, clock, log, group, variant = configuration.variant] in
            let early = variant == .endBeforeInit ? try cluster.changelogEnd(of: partition) : nil
            try place.takeOver()
            // Nothing is open now: what stands in the changelog is all that there is.
            place.heldAt = clock.now
            place.fencedAt = place.heldAt
            let patience = Patience(cluster, log)
            let end =
                try early ?? patience.with("changelog's end", partition) { try cluster.changelogEnd(of: partition) }
            place.inputBounds = try patience.with("input's ends", partition) {
                try cluster.inputBounds(of: partition)
            }
            place.reported = try patience.with("group's position", partition) { try group?.reported(partition) }
            return .init(partition: partition, place: place, end: end)
        }
    }

    private func install(_ taken: Takeovers<Brokers>.Taken) {
        lock.withLock {
            owned[taken.partition] = taken.place
            heads[taken.partition] = taken.end
        }
    }

    package func commit(_ commit: StagedCommit) throws -> CommitOutcome {
        guard let place = lock.withLock({ owned[commit.partition] }) else { return .lost }
        lock.withLock { place.isCommitting = true }
        defer { lock.withLock { place.isCommitting = false } }
        // What is known is as old as the question, not as the answer: a process may have stood still meanwhile.
        let asked = clock.now
        let outcome = try place.commit(commit) { try standing(of: commit) }
        switch outcome {
        case .committed:
            place.tellTakeover(firstCommitAt: clock)
            unsafe recent.append(commit.partition, commit.seq, unsafe commit.changes)
            lock.withLock {
                heads[commit.partition] = commit.seq
                place.settled = commit.endOffset
                place.abortsInARow = 0
                place.heldAt = asked
            }
            onCommit?(commit.partition, commit.seq)
        case .aborted: lock.withLock { place.pauseAfterAbort(now: clock.now) }
        case .lost:
            log.warning("lost to another worker", ["partition": commit.partition, "seq": commit.seq])
            giveUp(commit.partition)
            lock.withLock { retakes.append(commit.partition) }
        }
        return outcome
    }

    /// What the changelog says of a batch, once nothing is open. A batch of its seq is not enough: before our ids were
    /// initialised again another worker may have taken the partition and committed its own. Then all is read again.
    private func standing(of commit: StagedCommit) throws -> CommitOutcome {
        let patience = Patience(cluster, log)
        let end = try patience.with("changelog's end", commit.partition) {
            try cluster.changelogEnd(of: commit.partition)
        }
        guard end >= commit.seq else { return .aborted }
        guard end == commit.seq else { return .lost }
        var isOurs = false
        try patience.with("changelog", commit.partition) {
            try unsafe cluster.changelog(of: commit.partition, after: commit.seq - 1) { _, encoded in
                isOurs = unsafe encoded.elementsEqual(commit.changes)
                return false
            }
        }
        return isOurs ? .committed : .lost
    }

    /// A worker that was given a partition, stood still in its takeover and goes on after another has taken it, commits
    /// before it hears of that. The other is fenced, and learns so at its next commit: in a partition without events that
    /// may be never, and until then its heartbeats would vouch for an end that is not the log's. So it looks, where nothing
    /// was committed for a second, one partition at a time. Returns whether there is something to retake.
    private func isTakenSilently(_ now: Int64) -> Bool {
        let idle: (place: OwnedPartition<Brokers>, partition: Int, head: UInt64)? = lock.withLock {
            for partition in 0..<partitions {
                // A batch that was taken lately may be on its way.
                guard let place = owned[partition], !place.isCommitting, place.input != nil,
                    now - max(place.heldAt, place.lookedAt, place.takenAt) > Self.idleMicroseconds,
                    let head = heads[partition]
                else { continue }
                place.lookedAt = now
                return (place, partition, head)
            }
            return nil
        }
        if let idle {
            // Beside the loop: a partition whose broker is away must not keep the others.
            cluster.beside { [self] in look(idle.place, idle.partition, head: idle.head, asked: now) }
        }
        guard let (partition, head) = lock.withLock({ takenSilently.popLast() }) else { return false }
        guard lock.withLock({ heads[partition] == head }) else { return false }
        log.warning("taken by another worker meanwhile", ["partition": partition, "seq": head])
        giveUp(partition)
        lock.withLock { retakes.append(partition) }
        return true
    }

    private func look(_ place: OwnedPartition<Brokers>, _ partition: Int, head: UInt64, asked: Int64) {
        do {
            let end = try cluster.changelogEnd(of: partition)
            lock.withLock {
                // What was committed since is our own.
                guard owned[partition] === place, heads[partition] == head, !place.isCommitting else { return }
                if end > head {
                    takenSilently.append((partition, head))
                } else {
                    place.heldAt = max(place.heldAt, asked)
                }
            }
        } catch {
            log.debug("an idle partition could not be looked at", ["partition": partition, "because": "\(error)"])
        }
    }

    private static var idleMicroseconds: Int64 { 1_000_000 }
    /// So long what was known of a partition's end may be told to others.
    private static var vouchMicroseconds: Int64 { 4_000_000 }

    /// Once a second, for lag tools, and for a pipeline that has not committed yet.
    private func reportPositions(_ now: Int64) {
        guard now >= nextReport else { return }
        nextReport = now + 1_000_000
        group?.report(lock.withLock { owned.compactMapValues(\.settled) })
    }

    // MARK: reading

    /// Of a partition that is ours, what is known to be committed: up to the end that its takeover captured, and what this
    /// worker has committed since.
    package func changelog(
        of partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ encoded: UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        // What this process has committed lately is at hand.
        if try unsafe recent.batches(partition, after: seq, visit) { return }
        let end = lock.withLock { heads[partition] } ?? .max
        guard seq < end else { return }
        var last = seq
        try Patience(cluster, log).with("changelog", partition) {
            guard last < end else { return }
            try unsafe cluster.changelog(of: partition, after: last) { found, encoded in
                guard found <= end else { return false }
                let goesOn = try unsafe visit(found, encoded)
                last = goesOn ? found : end
                return goesOn && found < end
            }
        }
    }

    package func follow(
        partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws { try unsafe cluster.follow(partition: partition, after: seq, visit) }

    package func changelogEnd(of partition: Int) -> UInt64? { lock.withLock { heads[partition] } }

    /// The partition's end, where a commit or a look at the brokers has shown lately that nobody else commits to it.
    package func vouchedEnd(of partition: Int) -> UInt64? {
        lock.withLock {
            guard let place = owned[partition], clock.now - place.heldAt < Self.vouchMicroseconds else { return nil }
            return heads[partition]
        }
    }

    /// Events that wait to be read.
    package var waiting: Int { lock.withLock { owned.values.reduce(0) { $0 + ($1.input?.queued ?? 0) } } }

    /// Partitions that are ours and stand still, with the reason and the remedy.
    package var halted: [Int: String] { lock.withLock { owned.compactMapValues { $0.halted?.description } } }

    /// Before a planned stop, when nothing is under way any more. `handsOver`: someone waits for the slot and takes it now;
    /// else the group is told, and gives the partitions to the workers that it has.
    package func close(handsOver: Bool = false) {
        group?.report(lock.withLock { owned.compactMapValues(\.settled) })
        lock.withLock { owned.removeAll() }
        if !handsOver { group?.leave() }
        group = nil
    }
}

/// Another worker has claimed our slot.
package struct SlotTaken: Error, CustomStringConvertible {
    package let slot: Int

    package var description: String {
        "slot \(slot) was taken by another worker: give each core its own --slot, or --cores N to all of them"
    }
}

/// Where a pipeline without a changelog begins in an input that holds events, unless its group has a position.
package enum Beginning: String, CaseIterable, Sendable { case earliest, latest }
