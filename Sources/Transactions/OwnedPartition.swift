import Core
import Service

/// A partition that this worker owns: its two transactional producers, and where its input is read.
///
/// The order of a commit: begin → produce → commit → the other id's turn, once that is acknowledged.
///
/// `@unchecked Sendable`: the scoring loop uses `input`, `position` and `takenAt`; the thread that commits uses the rest;
/// `input`, `settled`, `halted` and `resumeAt` are set and read under the log's lock, and `queued` of `input` may be asked
/// by anyone.
final class OwnedPartition<Brokers: Cluster>: @unchecked Sendable {
    private let partition: Int
    private let cluster: Brokers
    private let log: Log
    private let variant: ProtocolVariant
    private var producers: [Brokers.Producer] = []
    /// Which of the two is next.
    private var turn = 0
    private var takeOvers: Int
    var input: Brokers.Input?
    /// Where `next` goes on.
    var position: UInt64 = 0
    /// Up to where the changelog holds the input, or where a pipeline without a changelog begins.
    var settled: UInt64?
    /// When a batch was last taken, microseconds since 1970.
    var takenAt: Int64 = 0
    /// When it was last known that nobody else commits to the partition, and when that was last asked; under the log's lock,
    /// as is `isCommitting`.
    var heldAt: Int64 = 0
    var lookedAt: Int64 = 0
    var isCommitting = false
    /// Batches that were aborted one after the other, and when the next is taken.
    var abortsInARow = 0
    var resumeAt: Int64 = 0
    /// The input's first offset and its end, and what the group was told last, as the takeover found them.
    var inputBounds: (low: UInt64, high: UInt64) = (0, 0)
    var reported: UInt64?
    /// Why the partition is not read.
    var halted: PositionError?
    /// The stages of the takeover, microseconds since 1970: given by the group, others fenced, read to the end. 0 before, and
    /// again when it was told.
    private var assignedAt: Int64
    var fencedAt: Int64 = 0
    var beganAt: Int64 = 0
    /// The first offset that was read since.
    var beganFrom: UInt64 = 0

    /// After so long without an answer the outcome of a commit is uncertain.
    private let commitMilliseconds: Int32 = 15_000

    /// `takeOvers`: how many this worker has done, which decides nothing in the sound protocol.
    init(_ partition: Int, _ cluster: Brokers, log: Log, variant: ProtocolVariant, takeOvers: Int, assignedAt: Int64) {
        self.partition = partition
        self.cluster = cluster
        self.log = log
        self.variant = variant
        self.takeOvers = takeOvers
        self.assignedAt = assignedAt
    }

    /// Lets go of the partition. A commit that is under way on another thread keeps its producers until it ends.
    func retire() { cluster.retire(self) }

    /// Initialises both ids, always the first one first, and uses it first: in any other order two workers could each
    /// hold one valid id and commit an event twice.
    func takeOver() throws {
        repeat {
            // The old producers go first: a client that lives on would answer for the same id.
            producers.removeAll()
            turn = variant == .secondIdFirst ? 1 : 0
            takeOvers += 1
            var made: [Brokers.Producer?] = [nil, nil]
            for id in variant.reversesIds(takeOver: takeOvers) ? [1, 0] : [0, 1] {
                made[id] = try initialized(id)
            }
            producers = made.compactMap { $0 }
        } while try !isEnded()
    }

    /// Sees to it that nothing stands open behind our claims. To initialise the ids should be enough. But a broker that was
    /// killed has been seen to take a transaction for complete whose marker it never wrote (docs/kafka.md): its batch was
    /// acknowledged, nobody can read it, and with the id's next marker it counts, beside the one that was written in its
    /// place. So that marker is written now, before anyone reads where the log ends. Returns `false` where the ids are to be
    /// initialised again.
    private func isEnded() throws -> Bool {
        for _ in 0..<Self.looks {
            let isSettled = try Patience(cluster, log).with("what is open", partition) {
                try cluster.isSettled(partition)
            }
            if isSettled { return true }
            try cluster.rest(microseconds: 50_000)
        }
        log.warning("a transaction is open that nobody holds: it is ended", ["partition": partition])
        for producer in producers {
            do { try producer.endOpen(milliseconds: commitMilliseconds) } catch {
                // Another has taken the partition since: what is open is his, and our first commit will tell.
                if error.isFenced { return true }
                log.warning("kafka: again", ["what": "end", "partition": partition, "because": error.description])
                return false
            }
        }
        return try Patience(cluster, log).with("what is open", partition) { try cluster.isSettled(partition) }
    }

    /// Markers that are on their way land meanwhile.
    private static var looks: Int { 20 }

    /// A producer that holds one of the ids. Where the dead owner has left a transaction open the brokers abort it, and ask
    /// for patience; librdkafka then waits for half a second, whatever is left to wait for. A new client asks at once.
    private func initialized(_ id: Int) throws -> Brokers.Producer {
        var patience: Int32 = 100
        while true {
            let producer = try cluster.makeProducer(of: partition, id: id)
            do {
                try producer.initialize(milliseconds: patience)
                try producer.prepare()
                return producer
            } catch {
                cluster.drop(producer)
                guard error.isRetriable || error.isTimeout else { throw error }
                log.info("asks again for an id", ["partition": partition, "id": id, "because": error.text])
                patience = min(patience * 2, 10_000)
            }
        }
    }

    /// What fails again and again, such as a topic that takes no record of that size, is tried ever less often.
    func pauseAfterAbort(now: Int64) {
        abortsInARow += 1
        resumeAt = abortsInARow == 1 ? 0 : now + min(1_000_000, 10_000 << Int64(min(abortsInARow, 10)))
    }

    /// Says once, at the first commit, how long each stage of the takeover has taken.
    func tellTakeover(firstCommitAt clock: any WallClock) {
        guard assignedAt > 0 else { return }
        let now = clock.now
        log.info(
            "took over",
            [
                "partition": partition, "fenceMilliseconds": (fencedAt - assignedAt) / 1000,
                "catchUpMilliseconds": (beganAt - fencedAt) / 1000, "firstCommitMilliseconds": (now - beganAt) / 1000,
            ])
        assignedAt = 0
    }

    /// Repeats what may succeed when it is repeated.
    private func patiently(
        _ what: String, _ body: () throws(Brokers.Producer.Failure) -> Void
    ) throws(Brokers.Producer.Failure) {
        while true {
            do { return try body() } catch {
                guard error.isRetriable || error.isTimeout else { throw error }
                log.warning("kafka: again", ["what": what, "partition": partition, "because": error.text])
            }
        }
    }

    /// Writes one transaction. `standing` reads from the changelog what became of one whose outcome nobody told.
    func commit(_ commit: StagedCommit, standing: () throws -> CommitOutcome) throws -> CommitOutcome {
        let producer = producers[turn]
        do {
            try producer.begin()
            try producer.produce(commit)
            try producer.commit(milliseconds: commitMilliseconds)
            turn = 1 - turn
            return .committed
        } catch {
            return try settle(error, commit.seq, producer, standing)
        }
    }

    /// What a failed commit means. An outcome that is not known is never followed by an abort: both ids are initialised
    /// again, which waits until the old outcome stands, and the changelog tells.
    private func settle(
        _ error: Brokers.Producer.Failure, _ seq: UInt64, _ producer: Brokers.Producer,
        _ standing: () throws -> CommitOutcome
    ) throws -> CommitOutcome {
        if error.isFenced { return .lost }
        if error.isAbortable {
            log.warning("aborted", ["partition": partition, "seq": seq, "because": error.description])
            do {
                try patiently("abort") { () throws(Brokers.Producer.Failure) in
                    try producer.abort(milliseconds: 10_000)
                }
                return .aborted
            } catch {
                guard !error.isFenced else { return .lost }
            }
        }
        log.warning("outcome uncertain", ["partition": partition, "seq": seq, "because": error.description])
        if let planted = planted(error) { return planted }
        let early = variant == .endBeforeInit ? try standing() : nil
        try takeOver()
        return try early ?? standing()
    }

    /// What a broken variant makes of an outcome that is not known; `nil` in the sound protocol.
    private func planted(_ error: Brokers.Producer.Failure) -> CommitOutcome? {
        guard error.isTimeout else { return nil }
        switch variant {
        case .uncertainIsAborted: return .aborted
        case .beginsEarly:
            turn = 1 - turn
            return .committed
        default: return nil
        }
    }
}
