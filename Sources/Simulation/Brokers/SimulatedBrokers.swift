import Changes

/// What a cluster of brokers decides, without its network: an input and a changelog a partition, transactional ids with
/// their epochs, and the time at which a decided transaction's marker lands.
///
/// The rules are those of Kafka's transaction coordinator: `init_transactions` aborts what is open under the id, waits for
/// what is decided, and fences older epochs; a request names id and epoch, and acts on whatever is open under them; a
/// transaction that stays open for longer than its time-out is aborted and its holder fenced; a reader of committed
/// records sees nothing at or behind the first record whose transaction is not yet marked.
final class SimulatedBrokers {
    struct Event {
        /// `nil` where the offset holds no event: a marker, or what was aborted upstream.
        let bytes: [UInt8]?
        let appendTime: Int64
    }

    struct Record {
        enum State { case open, prepared, committed, aborted }

        let seq: UInt64
        let changes: [UInt8]
        let scoreLines: Int
        let deadLetters: Int
        let id: Int
        let epoch: Int
        var state: State
    }

    /// One transactional id. Its records stand in its partition's changelog.
    struct Coordinator {
        var epoch = 0
        /// Of the open or decided transaction.
        var records: [Int] = []
        var openedAt: Int64 = 0
        /// When the marker lands; `nil` while the transaction is open or none is.
        var markedAt: Int64?
        var commits = false
        /// Records of a transaction that counts as complete, and whose marker was never written.
        var lost: [Int] = []
    }

    /// A request that arrives after its sender has given up.
    private struct LateRequest {
        let at: Int64
        let partition: Int
        let id: Int
        let epoch: Int
    }

    let lineage: Lineage
    let partitions: Int
    private let time: SimulatedClock.Time
    private(set) var inputs: [[Event]]
    private(set) var inputLows: [UInt64]
    private(set) var changelogs: [[Record]]
    /// The committed records before the first that is not marked, and where that stands.
    private var readable: [[Int]]
    private var unmarked: [Int]
    private var coordinators: [[Coordinator]]
    private var late: [LateRequest] = []
    var group: SimulatedGroup
    /// The next marker is not written, and the transaction counts as complete: what a killed broker was seen to do.
    var losesNextMarker = false
    /// How long the next marker takes, microseconds.
    var markerDelay: () -> Int64 = { 0 }
    /// A transaction is decided: its records count, whenever their marker lands.
    var onDecided: (_ partition: Int, _ record: Record) -> Void = { _, _ in }

    /// A committed record can be read by all.
    var onReadable: (_ partition: Int, _ seq: UInt64) -> Void = { _, _ in }

    static let transactionTimeout: Int64 = 10_000_000

    init(lineage: Lineage, partitions: Int, time: SimulatedClock.Time) {
        self.lineage = lineage
        self.partitions = partitions
        self.time = time
        inputs = Array(repeating: [], count: partitions)
        inputLows = Array(repeating: 0, count: partitions)
        changelogs = Array(repeating: [], count: partitions)
        readable = Array(repeating: [], count: partitions)
        unmarked = Array(repeating: 0, count: partitions)
        coordinators = Array(repeating: [Coordinator(), Coordinator()], count: partitions)
        group = SimulatedGroup(partitions: partitions)
    }

    /// What time brings: markers, late requests, time-outs.
    func advance() {
        let due = late.filter { $0.at <= time.now }
        late.removeAll { $0.at <= time.now }
        for request in due { _ = end(request.partition, request.id, epoch: request.epoch, commits: true) }
        for partition in 0..<partitions {
            for id in 0..<2 {
                if let at = coordinators[partition][id].markedAt, at <= time.now { mark(partition, id) }
                let coordinator = coordinators[partition][id]
                if coordinator.markedAt == nil, !coordinator.records.isEmpty,
                    time.now - coordinator.openedAt > Self.transactionTimeout
                {
                    coordinators[partition][id].epoch += 1
                    decide(partition, id, commits: false)
                }
            }
        }
        group.advance(time.now)
    }

    // MARK: input

    func append(_ partition: Int, _ event: [UInt8]?) {
        inputs[partition].append(Event(bytes: event, appendTime: time.now))
    }

    /// Retention deletes what lies before an offset.
    func retain(_ partition: Int, from offset: UInt64) { inputLows[partition] = max(inputLows[partition], offset) }

    // MARK: transactions

    func epoch(_ partition: Int, _ id: Int) -> Int { coordinators[partition][id].epoch }

    /// Whether a decided transaction of the id waits for its marker.
    func isMarking(_ partition: Int, _ id: Int) -> Bool { coordinators[partition][id].markedAt != nil }

    func isOpen(_ partition: Int, _ id: Int) -> Bool { !coordinators[partition][id].records.isEmpty }

    /// The first half of `init_transactions`: what is open is aborted, and its holder is fenced.
    func fence(_ partition: Int, _ id: Int) {
        guard !isMarking(partition, id), !coordinators[partition][id].records.isEmpty else { return }
        coordinators[partition][id].epoch += 1
        decide(partition, id, commits: false)
    }

    /// The second half, once nothing waits for its marker: a new epoch.
    func claim(_ partition: Int, _ id: Int) -> Int {
        precondition(!isMarking(partition, id) && coordinators[partition][id].records.isEmpty, "nothing is under way")
        coordinators[partition][id].epoch += 1
        return coordinators[partition][id].epoch
    }

    /// Appends a record to the open transaction, which it opens. Returns false for a fenced epoch.
    func produce(
        _ partition: Int, _ id: Int, epoch: Int, seq: UInt64, changes: [UInt8], scoreLines: Int, deadLetters: Int
    ) -> Bool {
        guard coordinators[partition][id].epoch == epoch else { return false }
        precondition(!isMarking(partition, id), "an id is busy until its marker has landed")
        if coordinators[partition][id].records.isEmpty { coordinators[partition][id].openedAt = time.now }
        coordinators[partition][id].records.append(changelogs[partition].count)
        changelogs[partition].append(
            Record(
                seq: seq, changes: changes, scoreLines: scoreLines, deadLetters: deadLetters, id: id, epoch: epoch,
                state: .open))
        return true
    }

    /// Ends the transaction that is open under id and epoch, if there is one. Returns false for a fenced epoch.
    func end(_ partition: Int, _ id: Int, epoch: Int, commits: Bool) -> Bool {
        guard coordinators[partition][id].epoch == epoch else { return false }
        if !isMarking(partition, id), !coordinators[partition][id].records.isEmpty {
            decide(partition, id, commits: commits)
        }
        return true
    }

    /// The same, at a later time, whatever stands then.
    func endLater(_ partition: Int, _ id: Int, epoch: Int, at: Int64) {
        late.append(LateRequest(at: at, partition: partition, id: id, epoch: epoch))
    }

    private func decide(_ partition: Int, _ id: Int, commits: Bool) {
        coordinators[partition][id].markedAt = time.now + markerDelay()
        coordinators[partition][id].commits = commits
        guard commits else { return }
        for index in coordinators[partition][id].records {
            changelogs[partition][index].state = .prepared
            onDecided(partition, changelogs[partition][index])
        }
    }

    private func mark(_ partition: Int, _ id: Int) {
        let coordinator = coordinators[partition][id]
        if losesNextMarker {
            losesNextMarker = false
            coordinators[partition][id].lost += coordinator.records
            coordinators[partition][id].records = []
            coordinators[partition][id].markedAt = nil
            return
        }
        // A marker ends all that stands open under its id.
        for index in coordinator.lost + coordinator.records {
            changelogs[partition][index].state = coordinator.commits ? .committed : .aborted
        }
        coordinators[partition][id].records = []
        coordinators[partition][id].lost = []
        coordinators[partition][id].markedAt = nil
        while unmarked[partition] < changelogs[partition].count {
            let index = unmarked[partition]
            switch changelogs[partition][index].state {
            case .open, .prepared: return
            case .aborted: break
            case .committed:
                readable[partition].append(index)
                onReadable(partition, changelogs[partition][index].seq)
            }
            unmarked[partition] += 1
        }
    }

    /// An empty transaction of the id. Returns false for a fenced epoch.
    func endLost(_ partition: Int, _ id: Int, epoch: Int) -> Bool {
        guard coordinators[partition][id].epoch == epoch else { return false }
        coordinators[partition][id].commits = true
        mark(partition, id)
        return true
    }

    /// Whether nothing stands open.
    func isSettled(_ partition: Int) -> Bool { unmarked[partition] == changelogs[partition].count }

    // MARK: reading

    /// Visits the committed records after the first `count`, up to the first that is not marked, while `visit` says so.
    func committed(_ partition: Int, after count: UInt64, _ visit: (Record) throws -> Bool) rethrows {
        for index in readable[partition].dropFirst(Int(count)) {
            if try !visit(changelogs[partition][index]) { return }
        }
    }

    /// The seq of the last committed record that can be read.
    func changelogEnd(_ partition: Int) -> UInt64 {
        readable[partition].last.map { changelogs[partition][$0].seq } ?? 0
    }
}
