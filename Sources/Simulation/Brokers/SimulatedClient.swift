import Changes
import Core
import Transactions

/// What a call to the brokers passes through: other processes may run meanwhile, the caller may die there, and the
/// request or its answer may be lost.
protocol Interleaving: AnyObject {
    /// Called before a request takes effect, and again before its caller hears the answer. Throws where the caller is dead.
    func pass(_ client: SimulatedClient, _ step: StaticString) throws(SimulatedFailure)
    /// What becomes of the request.
    func fate(_ request: StaticString) -> RequestFate
    /// Lets the others run for so long while the client waits.
    func wait(_ client: SimulatedClient, microseconds: Int64) throws(SimulatedFailure)
    /// How late a late request is, microseconds.
    var lateness: Int64 { get }
    var now: Int64 { get }
    /// Whether it runs by and by what a process does beside its loop; else that is done at once.
    var runsBeside: Bool { get }
}

enum RequestFate: String {
    case answered
    case lost
    /// It takes effect, and nobody is told.
    case answerLost
    /// It takes effect after its sender has given up.
    case late
    case refused
}

/// One process's connection to the simulated brokers.
///
/// `@unchecked Sendable`: a history runs in one thread.
final class SimulatedClient: Cluster, @unchecked Sendable {
    let brokers: SimulatedBrokers
    let slot: Int
    let incarnation: Int
    /// Its process has ended: nothing that it asks for takes effect.
    var isDead = false
    /// It cannot reach the brokers.
    var isCut = false
    /// What the process does beside its loop, and has not begun yet.
    var besides: [@Sendable () -> Void] = []
    unowned let world: any Interleaving

    init(_ brokers: SimulatedBrokers, slot: Int, incarnation: Int, world: any Interleaving) {
        self.brokers = brokers
        self.slot = slot
        self.incarnation = incarnation
        self.world = world
    }

    var lineage: Lineage { brokers.lineage }
    var partitions: Int { brokers.partitions }

    /// A question whose answer changes nothing at the brokers.
    func ask(_ step: StaticString) throws(SimulatedFailure) {
        try world.pass(self, step)
        if isCut {
            try world.wait(self, microseconds: 5_000_000)
            throw SimulatedFailure(.timeout)
        }
    }

    func makeProducer(of partition: Int, id: Int) throws -> SimulatedProducer {
        SimulatedProducer(self, partition: partition, id: id)
    }

    func drop(_ producer: SimulatedProducer) {}

    func retire(_ owner: any Sendable) {}

    func beside(_ body: @escaping @Sendable () -> Void) {
        if world.runsBeside { besides.append(body) } else { body() }
    }

    /// The group knows who presented the slot last.
    func isTaken(slot: Int) -> Bool { brokers.group.isHeldByAnother(slot: slot, than: incarnation) }

    func join(slot: Int) throws -> SimulatedMember {
        try ask("join")
        brokers.group.join(slot: slot, incarnation: incarnation, now: world.now)
        return SimulatedMember(self)
    }

    func inputBounds(of partition: Int) throws -> (low: UInt64, high: UInt64) {
        try ask("bounds")
        return (brokers.inputLows[partition], UInt64(brokers.inputs[partition].count))
    }

    func readInput(of partition: Int, from offset: UInt64) throws -> SimulatedInput {
        try ask("read")
        return SimulatedInput(self, partition, from: offset)
    }

    func wait(microseconds: Int64) {}
    func rest(microseconds: Int64) throws { try world.wait(self, microseconds: microseconds) }
    func wake() {}

    func isSettled(_ partition: Int) throws -> Bool {
        try ask("what is open")
        return brokers.isSettled(partition)
    }

    func changelogEnd(of partition: Int) throws -> UInt64 {
        try ask("changelog's end")
        return brokers.changelogEnd(partition)
    }

    func changelog(
        of partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        try ask("changelog")
        try unsafe visitChangelog(partition, after: seq, visit)
    }

    func follow(
        partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        guard !isCut, !isDead else { return }
        try unsafe visitChangelog(partition, after: seq, visit)
    }

    private func visitChangelog(
        _ partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        var next = seq + 1
        try brokers.committed(partition, after: seq) { record in
            guard record.seq >= next else { return true }
            guard record.seq == next else {
                throw Violation("batch \(record.seq) of partition \(partition) is read where \(next) was due")
            }
            next += 1
            return try unsafe record.changes.withUnsafeBytes { try unsafe visit(record.seq, $0) }
        }
    }
}

/// A producer with a transactional id, as librdkafka is one: what it hears it believes, what it does not hear it reports.
///
/// `@unchecked Sendable`: a history runs in one thread.
final class SimulatedProducer: TransactionalClient, @unchecked Sendable {
    private let client: SimulatedClient
    private let partition: Int
    private let id: Int
    private var epoch = 0
    private var world: any Interleaving { client.world }
    private var brokers: SimulatedBrokers { client.brokers }

    init(_ client: SimulatedClient, partition: Int, id: Int) {
        self.client = client
        self.partition = partition
        self.id = id
    }

    func initialize(milliseconds: Int32) throws(SimulatedFailure) {
        let deadline = world.now + Int64(milliseconds) * 1000
        try client.ask(id == 0 ? "init a" : "init b")
        let fate = world.fate("init")
        guard fate != .lost, fate != .refused else { return try giveUp(.timeout) }
        // While this one waits another may have claimed the id, and have begun: that is fenced, too. (Seed 7004428.)
        repeat {
            brokers.fence(partition, id)
            try awaitMarker(deadline)
        } while brokers.isOpen(partition, id)
        let claimed = brokers.claim(partition, id)
        if fate != .answered { return try giveUp(.timeout) }
        epoch = claimed
        try world.pass(client, "init answered")
    }

    /// An id is busy until the marker of its last transaction has landed.
    private func awaitMarker(_ deadline: Int64) throws(SimulatedFailure) {
        while brokers.isMarking(partition, id) {
            guard world.now < deadline else { throw SimulatedFailure(.timeout) }
            try world.wait(client, microseconds: 20_000)
        }
    }

    /// Nobody answers: the time passes, and others go on.
    private func giveUp(_ kind: SimulatedFailure.Kind) throws(SimulatedFailure) {
        try world.wait(client, microseconds: 3_000_000)
        throw SimulatedFailure(kind)
    }

    func prepare() throws(SimulatedFailure) {}

    func begin() throws(SimulatedFailure) { try world.pass(client, "begin") }

    func produce(_ commit: StagedCommit) throws(SimulatedFailure) {
        try client.ask("produce")
        try awaitMarker(world.now + 30_000_000)
        switch world.fate("produce") {
        case .refused: throw SimulatedFailure(.abortable)
        case .lost: return try giveUp(.abortable)
        default: break
        }
        let lines = unsafe commit.scores.reduce(0) { $0 + ($1 == 0x0A ? 1 : 0) }
        let letters = unsafe DeadLetter.read(commit.deadLetters)?.count ?? -1
        let isTaken = brokers.produce(
            partition, id, epoch: epoch, seq: commit.seq, changes: unsafe Array(commit.changes), scoreLines: lines,
            deadLetters: letters)
        guard isTaken else { throw SimulatedFailure(.fenced) }
    }

    func commit(milliseconds: Int32) throws(SimulatedFailure) {
        try client.ask("commit")
        let fate = world.fate("commit")
        switch fate {
        case .refused: throw SimulatedFailure(.abortable)
        case .lost: return try giveUp(.timeout)
        case .late:
            brokers.endLater(partition, id, epoch: epoch, at: world.now + world.lateness)
            return try giveUp(.timeout)
        case .answered, .answerLost:
            let isHolder = brokers.end(partition, id, epoch: epoch, commits: true)
            if fate == .answerLost { return try giveUp(.timeout) }
            guard isHolder else { throw SimulatedFailure(.fenced) }
            try world.pass(client, "commit answered")
        }
    }

    func endOpen(milliseconds: Int32) throws(SimulatedFailure) {
        try client.ask("end")
        guard brokers.endLost(partition, id, epoch: epoch) else { throw SimulatedFailure(.fenced) }
    }

    func abort(milliseconds: Int32) throws(SimulatedFailure) {
        try client.ask("abort")
        if world.fate("abort") == .lost { return try giveUp(.timeout) }
        guard brokers.end(partition, id, epoch: epoch, commits: false) else { throw SimulatedFailure(.fenced) }
    }
}

/// One partition's input as it is fetched.
final class SimulatedInput: InputReader {
    private let client: SimulatedClient
    private let partition: Int
    private var next: Int

    init(_ client: SimulatedClient, _ partition: Int, from offset: UInt64) {
        self.client = client
        self.partition = partition
        next = Int(offset)
    }

    var waiting: Int {
        guard !client.isCut else { return 0 }
        // Offsets that hold no event are not events that wait.
        let inputs = client.brokers.inputs[partition]
        while next < inputs.count, inputs[next].bytes == nil { next += 1 }
        return inputs.count - next
    }
    var queued: Int { waiting }

    func fill(_ batch: EventBatch) throws {
        let inputs = client.brokers.inputs[partition]
        let low = Int(client.brokers.inputLows[partition])
        while next < inputs.count, !batch.isFull {
            defer { next += 1 }
            guard next >= low, let bytes = inputs[next].bytes else { continue }
            unsafe bytes.withUnsafeBytes {
                unsafe batch.append($0, appendTime: inputs[next].appendTime, offset: UInt64(next))
            }
        }
    }
}

/// A process's place in the simulated group.
///
/// `@unchecked Sendable`: a history runs in one thread.
final class SimulatedMember: GroupMember, @unchecked Sendable {
    private let client: SimulatedClient
    private var assignment = GroupAssignment()

    init(_ client: SimulatedClient) { self.client = client }

    func poll() throws -> GroupAssignment.Change? {
        try client.world.pass(client, "poll")
        if !client.isCut {
            guard let news = client.brokers.group.news(slot: client.slot, incarnation: client.incarnation) else {
                throw SimulatedFailure(.fenced)
            }
            for item in news {
                switch item {
                case .revoked: assignment.revoked()
                case .assigned(let partitions): assignment.assigned(partitions)
                }
            }
        }
        return assignment.next()
    }

    func isOwned(_ partition: Int) -> Bool { assignment.isOwned(partition) }

    func lost(_ partition: Int) { assignment.lost(partition) }

    func reported(_ partition: Int) throws -> UInt64? {
        try client.ask("reported")
        return client.brokers.group.reported[partition]
    }

    func report(_ positions: [Int: UInt64]) {
        guard !client.isCut, !client.isDead else { return }
        for (partition, offset) in positions { client.brokers.group.report(partition, offset) }
    }

    /// No history ends a core by plan: what leaves is a crash's session that ends.
    func leave() {}
}
