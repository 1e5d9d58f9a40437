import Foundation
import Changes
import Core
import Edge
import Features
import Replicate
import Service
import Transactions

/// One history: brokers, bus, cores, relays and regions in one thread, from a seed.
///
/// The scheduler picks the next step and lets time pass; where a core waits for the brokers, others may run before it
/// hears the answer. Whatever is random comes from the seed, so a history can be run again, step by step.
final class History: Interleaving {
    struct Configuration: Sendable {
        var events = 1000
        var variant = ProtocolVariant.sound
        var snapshotVariant = SnapshotVariant.sound
        var traces = false
    }

    let configuration: Configuration
    let seed: UInt64
    let folder: String
    var random: SeededGenerator
    let time = SimulatedClock.Time()
    let brokers: SimulatedBrokers
    let bus: SimulatedBus
    let oracle: Oracle
    let pipeline: Pipeline
    let partitions: Int
    /// Slots whose process is kept running.
    let slots: Int
    var workers: [SimulatedWorker] = []
    /// When a slot's process starts again, and from which folder.
    var restarts: [(slot: Int, at: Int64, folder: String)] = []
    var regions: [SimulatedRegion] = []
    var regionRestarts: [(name: String, at: Int64, folder: String)] = []
    /// `nil` while it is down: then it starts again at `sealerRestart`.
    var sealer: SimulatedSealer?
    var sealerRestart: (at: Int64, folder: String)?
    let key: SigningKey
    private var standby: Relay
    let standbyPublisher: SimulatedBus.Publisher
    private var source = EventSource()
    private(set) var sent = 0
    private(set) var steps = 0
    /// No faults any more.
    private(set) var isCalm = false
    /// Nothing is sent for a while.
    var isQuiet = false
    var incarnations = 0
    private var depth = 0
    private var depthMax = 3
    /// What is undone at a time: cuts are mended.
    var mends: [(at: Int64, mend: () -> Void)] = []
    private var hash: UInt64 = 0xCBF2_9CE4_8422_2325

    init(seed: UInt64, folder: String, pipeline: Pipeline, key: SigningKey, _ configuration: Configuration) throws {
        self.seed = seed
        self.key = key
        self.folder = folder
        self.pipeline = pipeline
        self.configuration = configuration
        random = SeededGenerator(seed)
        let lineage = Lineage(high: random.next(), low: random.next())
        partitions = 2 + random.below(2)
        slots = 2 + random.below(2)
        brokers = SimulatedBrokers(lineage: lineage, partitions: partitions, time: time)
        bus = SimulatedBus(time, seed: random.next())
        oracle = Oracle(lineage: lineage, partitions: partitions)
        standbyPublisher = SimulatedBus.Publisher(bus)
        standby = Relay(
            source: StandbyChangelog(brokers: brokers), publisher: standbyPublisher,
            log: Log(role: "relay", minimum: .error), clock: SimulatedClock(time))
        brokers.markerDelay = { [unowned self] in markerDelay() }
        brokers.onDecided = { [unowned self] partition, record in
            note("decided", partition, Int(record.seq))
            oracle.decided(
                partition, record, appendTimes: { self.brokers.inputs[partition][$0].appendTime })
        }
        brokers.onReadable = { [unowned self] partition, seq in oracle.readable(partition, seq, now: time.now) }
        for slot in 0..<slots { restarts.append((slot, time.now, "\(folder)/core-\(slot)")) }
        for index in 0...random.below(2) { regionRestarts.append(("r\(index)", time.now, "\(folder)/r\(index)")) }
        sealerRestart = (time.now, "\(folder)/sealer")
    }

    struct Outcome: Sendable {
        var seed: UInt64
        var violation: String?
        var events: Int
        var steps: Int
        var scored: Int
        var duplicates: Int
        var deadLetters: Int
        /// Of every step, in order.
        var trace: UInt64
        var simulatedSeconds: Double
    }

    /// Runs to the end, or to the first violation.
    func run() -> Outcome {
        let began = time.now
        while sent < configuration.events, oracle.violation == nil { step() }
        calm()
        let deadline = time.now + Self.convergenceMicroseconds
        while oracle.violation == nil, !hasConverged {
            if time.now > deadline { oracle.find("it does not converge: \(unfinished)") }
            step()
        }
        return Outcome(
            seed: seed, violation: oracle.violation, events: sent, steps: steps, scored: oracle.scored,
            duplicates: oracle.duplicates, deadLetters: oracle.deadLetters, trace: hash,
            simulatedSeconds: Double(time.now - began) / 1_000_000)
    }

    /// Within this time after the last fault everything is scored, and every region is fresh.
    static let convergenceMicroseconds: Int64 = 120_000_000

    // MARK: the scheduler

    func step() {
        steps += 1
        pass(random.oneIn(200) && !isCalm ? random.time(4_000_000) : random.time(12_000))
        revive()
        if !isCalm, depth == 0, random.oneIn(60) { injectFault() }
        act()
    }

    /// One step of one process.
    private func act() {
        let choice = random.below(100)
        switch choice {
        case 0..<4 where sent < configuration.events: send()
        case 0..<48:
            guard let worker = pick(workers, where: isReady) else { return }
            if worker.client.besides.isEmpty || random.oneIn(2) { run(worker) } else { runBeside(worker) }
        case 48..<64: if let worker = pick(workers, where: isReady) { relay(worker) }
        case 64..<66: if random.oneIn(3) { relay(standby) }
        case 66..<69: if let region = pick(regions, where: { !$0.life.isBusy }) { takeSnapshots(region) }
        case 69..<73: if let sealer, !sealer.life.isBusy { run(sealer, seals: random.oneIn(4)) }
        default: if let region = pick(regions, where: { !$0.life.isBusy }) { follow(region) }
        }
    }

    private func pick<Element>(_ all: [Element], where isReady: (Element) -> Bool) -> Element? {
        guard !all.isEmpty else { return nil }
        let one = all[random.below(all.count)]
        return isReady(one) ? one : nil
    }

    private func isReady(_ worker: SimulatedWorker) -> Bool {
        !worker.isBusy && !worker.client.isDead && worker.pausedUntil <= time.now
    }

    /// Time passes, and brings what it brings.
    func pass(_ microseconds: Int64) {
        time.now += microseconds
        for worker in workers
        where !worker.client.isDead && !worker.client.isCut && worker.pausedUntil <= time.now {
            // A session is kept by a thread of the library, whatever its process waits for.
            _ = brokers.group.heartbeat(slot: worker.slot, incarnation: worker.client.incarnation, now: time.now)
        }
        brokers.advance()
    }

    private func send() {
        guard !isQuiet else { return }
        for _ in 0...random.below(12) where sent < configuration.events {
            let made = source.make(partitions: partitions, now: time.now, &random)
            brokers.append(made.partition, made.bytes)
            oracle.sent(made.partition, made.sent)
            if made.bytes != nil { sent += 1 }
        }
        note("sent", sent, 0)
    }

    private func run(_ worker: SimulatedWorker) {
        worker.isBusy = true
        do {
            let outcome = try worker.loop.step(waitMicroseconds: 0)
            switch outcome {
            case .idle: break
            case .assigned(let partition, let replayed): note("assigned", worker.slot, partition, Int(replayed))
            case .scored(let partition, let events): note("scored", worker.slot, partition, events)
            case .aborted(let partition): note("aborted", worker.slot, partition)
            }
        } catch {
            end(worker, because: error)
        }
        worker.isBusy = false
        for (partition, position) in worker.figures.current.positions {
            oracle.check(view: "core \(worker.slot)", partition, seq: position.seq, digest: position.digest)
        }
        if worker.client.isDead, worker.isAtRest { bury(worker) }
    }

    /// What the process does on other threads, its loop goes on meanwhile.
    private func runBeside(_ worker: SimulatedWorker) {
        let body = worker.client.besides.removeFirst()
        worker.besidesBegun += 1
        body()
        worker.besidesBegun -= 1
        if worker.client.isDead, worker.isAtRest { bury(worker) }
    }

    /// A process ends when its loop does. Only what the brokers or its disk did to it may end it.
    private func end(_ worker: SimulatedWorker, because error: any Error) {
        note("core ends", worker.slot, worker.client.incarnation)
        if !(error is SimulatedFailure), !(error is SlotTaken), !worker.isDiskFull {
            oracle.find("core \(worker.slot) ended: \(error)")
        }
        worker.client.isDead = true
    }

    private func relay(_ worker: SimulatedWorker) {
        // A process that stands still, stands still whole.
        worker.isBusy = true
        do { _ = try worker.relay.step() } catch {
            if !(error is SimulatedFailure) { oracle.find("the relay of core \(worker.slot) failed: \(error)") }
        }
        worker.isBusy = false
        if worker.client.isDead, worker.isAtRest { bury(worker) }
    }

    private func relay(_ relay: Relay) {
        do { _ = try relay.step() } catch { oracle.find("the relay failed: \(error)") }
    }

    private func follow(_ region: SimulatedRegion) {
        do {
            // To the end: what it has not read yet it cannot know of.
            while try region.region.step(waitMicroseconds: 0) {}
        } catch { oracle.find("region \(region.name) ended: \(error)") }
        region.check(oracle, partitions: partitions, now: time.now)
        if random.oneIn(40) { count(region.region, region.name) }
        fold(region.region.positions.reduce(0) { $0 &* 31 &+ $1.seq })
    }

    // MARK: in the middle of a call

    var now: Int64 { time.now }
    var runsBeside: Bool { true }

    func pass(_ client: SimulatedClient, _ step: StaticString) throws(SimulatedFailure) {
        guard !client.isDead else { throw SimulatedFailure(.dead) }
        pass(random.time(1500))
        if !isCalm, !step.hasPrefix("poll") {
            if random.oneIn(500) {
                note("dies in a call", client.slot, client.incarnation)
                client.isDead = true
            } else if isInit(step), depth < depthMax, random.oneIn(8) {
                // So long that the group gives its partitions away: then two take one over at once.
                note("stands still in a takeover", client.slot, client.incarnation)
                try wait(client, microseconds: 6_000_000 + random.time(6_000_000), isStill: true)
            } else if isInit(step), random.oneIn(6) {
                nest(1 + random.below(30))
            } else if random.oneIn(12) {
                nest(1 + random.below(8))
            } else if random.oneIn(120), depth < depthMax {
                note("stands still in a call", client.slot, client.incarnation)
                try wait(client, microseconds: random.time(20_000_000), isStill: true)
            }
        }
        guard !client.isDead else { throw SimulatedFailure(.dead) }
    }

    private func isInit(_ step: StaticString) -> Bool { step.hasPrefix("init") }

    func wait(_ client: SimulatedClient, microseconds: Int64) throws(SimulatedFailure) {
        try wait(client, microseconds: microseconds, isStill: false)
    }

    /// `isStill`: its machine has stopped it, so that its session ends too.
    private func wait(_ client: SimulatedClient, microseconds: Int64, isStill: Bool) throws(SimulatedFailure) {
        let until = time.now + microseconds
        if isStill { workers.first { $0.client === client }?.pausedUntil = until }
        while time.now < until {
            pass(min(until - time.now, 1 + random.time(400_000)))
            nest(3)
        }
        guard !client.isDead else { throw SimulatedFailure(.dead) }
    }

    /// Others run while a call is under way.
    func nest(_ count: Int) {
        guard depth < depthMax else { return }
        depth += 1
        defer { depth -= 1 }
        for _ in 0..<count where oracle.violation == nil { step() }
    }

    func fate(_ request: StaticString) -> RequestFate {
        guard !isCalm else { return .answered }
        let roll = random.below(100)
        let fate: RequestFate =
            switch roll {
            case 0..<3: .lost
            case 3..<6: .answerLost
            case 6..<9: .late
            case 9..<11: .refused
            default: .answered
            }
        if fate != .answered { note(request, roll, 0) }
        return fate
    }

    var lateness: Int64 { random.time(12_000_000) }

    private func markerDelay() -> Int64 {
        isCalm ? 3000 : random.oneIn(20) ? random.time(12_000_000) : random.time(20_000)
    }

    // MARK: the end

    /// From now on nothing fails.
    private func calm() {
        isCalm = true
        bus.isLossy = false
        for mend in mends { mend.mend() }
        mends = []
        for worker in workers { worker.pausedUntil = 0 }
        for region in regions { unpin(region.store) }
        note("calm", 0, 0)
    }

    private var hasConverged: Bool {
        guard steps % 16 == 0, oracle.isComplete, restarts.isEmpty, regionRestarts.isEmpty, let sealer else {
            return false
        }
        let isAtEnd = regions.allSatisfy { region in
            region.state == .fresh && !region.life.isBusy && hasAll(region.region)
        }
        guard isAtEnd, !sealer.life.isBusy, hasAll(sealer.region) else { return false }
        let newest = (try? sealer.store.current)?.manifest.number ?? 0
        guard regions.allSatisfy({ $0.region.census?.snapshot ?? 0 >= newest }) else { return false }
        for region in regions { count(region.region, region.name) }
        return true
    }

    private func hasAll(_ region: Region) -> Bool {
        region.positions.count == partitions
            && region.positions.enumerated().allSatisfy { $1.seq == oracle.head($0) }
    }

    private var unfinished: String {
        let states = regions.map { region in
            "\(region.name) \(region.state) at "
                + "\(region.region.positions.map { Int($0.seq) }) of \((0..<partitions).map { Int(oracle.head($0)) }) "
                + "with snapshot \(region.region.census?.snapshot ?? 0)"
        }
        let newest = sealer.flatMap { try? $0.store.current }?.manifest.number ?? 0
        return "positions \(oracle.waiting), \(workers.count) cores, \(states.joined(separator: ", ")); "
            + "the sealer's snapshot is \(newest)"
    }

    // MARK: the trace

    func note(_ what: StaticString, _ a: Int, _ b: Int, _ c: Int = 0) {
        what.withUTF8Buffer { text in unsafe text.forEach { fold(UInt64($0)) } }
        for value in [a, b, c] { fold(UInt64(bitPattern: Int64(value))) }
        fold(UInt64(bitPattern: time.now))
        if configuration.traces {
            let at = Double(time.now % 86_400_000_000) / 1_000_000
            print("\(steps) \(at) \(String(repeating: "  ", count: depth))\(what) \(a) \(b) \(c)")
        }
    }

    /// Method: FNV-1a, a word at a time.
    private func fold(_ value: UInt64) { hash = (hash ^ value) &* 0x0000_0100_0000_01B3 }
}

extension StaticString {
    fileprivate func hasPrefix(_ prefix: StaticString) -> Bool {
        withUTF8Buffer { text in prefix.withUTF8Buffer { unsafe text.starts(with: $0) } }
    }
}
