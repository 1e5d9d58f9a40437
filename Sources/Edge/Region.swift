import Changes
import Features
import Foundation
import HTTP
import Replicate
import Scoring
import Service
import Storage
internal import Synchronization

/// A region: follows the bus into its replica, and lends the replica to queries.
///
/// One thread calls `step`. A log of another lineage is followed beside the replica that serves, and takes its place when
/// it is complete: two histories are never mixed. So is the same log, where this replica's digest is not the log's.
///
/// `@unchecked Sendable`: what readers see is behind mutexes; the rest is the applier's thread's alone.
package final class Region: @unchecked Sendable {
    package struct Configuration: Sendable {
        package var name: String
        package var path: String
        /// The other regions' URLs, named when a demand for freshness cannot be met.
        package var others: [String: String] = [:]
        /// Where snapshots come from; without, a region keeps all vectors in its tail and begins with what the bus holds.
        package var snapshots: SnapshotPlace?
        /// Whoever seals must have all that is not sealed yet.
        package var isSealer = false

        package init(name: String, path: String) {
            self.name = name
            self.path = path
        }
    }

    package let configuration: Configuration
    package let pipeline: Pipeline
    let model: ScoringModel?
    private let bus: any DeltaSubscriber
    private let clock: any WallClock
    private let log: Log
    private let serving = Mutex<Replica?>(nil)
    private let current = Mutex(RegionStatus())
    private let waiters = TokenWaiters()
    let stream = EventBroadcast()
    package let figures = EdgeFigures()
    package let snapshots = SnapshotFigures()
    // The applier's.
    private var active: Replica?
    private var next: Replica?
    private var nextCopy = 0
    /// Which copy of its log the active replica is, and how often in a row each partition's digest was not the log's.
    private var copy = 0
    private var differing: [UInt32: Int] = [:]
    /// Repairs since the stream brought something.
    private var repairsInSilence = 0
    private var bootstrap: (lineage: Lineage, copy: Int, partitions: Int, work: Bootstrap)?
    /// Since when a log is known of which this region has nothing and no snapshot was offered.
    private var waitingSince: (lineage: Lineage, at: Int64)?
    /// What was heard of a log that is not followed yet.
    private var heardBefore: (lineage: Lineage, heads: [UInt32: UInt64])?
    private let beside = Mutex<Lineage?>(nil)
    /// Partitions of the log beside of whose head something was heard: without it nothing is known to be missing.
    private var heardBeside: Set<UInt32> = []
    private var sendingTimes = SendingTimes()
    /// No heartbeat that this process reads was sent before it began to listen.
    private let began: Int64
    private var subscribed = false
    private var wasComplete = false
    private let badBatches = LogLimiter()
    private let busErrors = LogLimiter()
    private let divergences = LogLimiter()

    package init(
        _ configuration: Configuration, pipeline: Pipeline, model: ScoringModel?, bus: any DeltaSubscriber, log: Log,
        clock: any WallClock = SystemClock()
    ) throws {
        self.configuration = configuration
        self.pipeline = pipeline
        self.model = model
        self.bus = bus
        self.log = log
        self.clock = clock
        began = clock.now
        if let note = try? String(contentsOfFile: configuration.path + "/current", encoding: .utf8),
            let (lineage, copy) = Self.read(note),
            let partitions = try? String(contentsOfFile: path(of: lineage, copy) + ".partitions", encoding: .utf8),
            let partitions = Int(partitions)
        {
            self.copy = copy
            let replica = try open(lineage, copy, partitions: partitions)
            active = replica
            serving.withLock { $0 = replica }
            current.withLock { $0.hasView = replica.positions.contains { $0.seq > 0 } }
        }
    }

    /// Copies are counted: one that has diverged is made anew beside itself.
    private func path(of lineage: Lineage, _ copy: Int = 0) -> String {
        "\(configuration.path)/\(lineage)" + (copy > 0 ? ".\(copy)" : "")
    }

    /// What `activate` has written.
    private static func read(_ note: String) -> (Lineage, copy: Int)? {
        let words = note.split(whereSeparator: \.isWhitespace)
        guard let lineage = words.first.flatMap({ Lineage(String($0)) }) else { return nil }
        return (lineage, words.count > 1 ? Int(words[1]) ?? 0 : 0)
    }

    private func open(_ lineage: Lineage, _ copy: Int = 0, partitions: Int) throws -> Replica {
        try FileManager.default.createDirectory(atPath: configuration.path, withIntermediateDirectories: true)
        let replica = try Replica(
            path: path(of: lineage, copy), lineage: lineage, partitions: partitions, pipeline: pipeline, model: model,
            log: log)
        if let place = configuration.snapshots {
            do {
                try SnapshotLoader(store: place.store).restore(into: replica, model: model)
            } catch {
                // The rows are there: they are searched without the snapshot until the next one comes.
                let refusal = error as? SnapshotRefusal ?? SnapshotRefusal(.damaged, "\(error)")
                snapshots.refused(refusal, name: "what is on the disk")
                log.error("the snapshot on the disk was refused", ["error": "\(error)"])
            }
        }
        replica.cutTails = try replica.refillTails(log, whole: configuration.isSealer)
        try String(partitions).write(toFile: path(of: lineage, copy) + ".partitions", atomically: true, encoding: .utf8)
        return replica
    }

    /// How the region stands now.
    package var status: RegionStatus { current.withLock { $0 } }

    var replica: Replica? { serving.withLock { $0 } }

    package var positions: [AppliedPosition] { replica?.positions ?? [] }

    /// Whether this log is followed beside the one that serves.
    func isFollowing(_ lineage: Lineage) -> Bool { beside.withLock { $0 } == lineage }

    /// Calls `ready` once the partitions' input has been applied up to these offsets, at once where it has been.
    func wait(for token: ReadToken, _ ready: @escaping @Sendable () -> Void) {
        waiters.add(token, ready)
        waiters.check(positions)
    }

    // MARK: following

    /// Takes one message and does what it asks for. Returns whether there was one.
    @discardableResult
    package func step(waitMicroseconds: Int = 20_000) throws -> Bool {
        let connected = bus.isConnected
        if connected, !subscribed { subscribe() }
        let message = bus.next(waitMicroseconds: waitMicroseconds)
        let now = clock.now
        switch message {
        case .batch(let bytes, let sequence): try receive(bytes, busSequence: sequence, now: now)
        case .heartbeat(let heartbeat): try hear(heartbeat, now: now)
        case .reconnected: subscribed = false
        case nil: break
        }
        try finishBootstrap()
        if connected { repair(now: now) }
        for replica in [active, next] { try replica?.proceed(now: now) }
        promote()
        refresh(connected: connected, now: now)
        return message != nil
    }

    private func subscribe() {
        do {
            try bus.subscribe(after: active?.busSequence)
            subscribed = true
        } catch {
            // The stream is made by a relay: until there is one there is nothing to follow.
            busErrors.limited(now: clock.now) { _ in log.info("waiting for the stream", ["error": "\(error)"]) }
        }
    }

    private func receive(_ bytes: [UInt8], busSequence: UInt64, now: Int64) throws {
        if busSequence > 0 { repairsInSilence = 0 }
        guard let batch = decode(bytes, now: now) else { return }
        for replica in replicas(of: batch.header.lineage) where Int(batch.header.partition) < replica.partitions {
            try receive(batch, bytes, by: replica, busSequence: busSequence, now: now)
        }
    }

    private func decode(_ bytes: [UInt8], now: Int64) -> ChangeBatch? {
        do { return try unsafe bytes.withUnsafeBytes { try unsafe ChangeBatch(decoding: $0) } } catch {
            figures.refused()
            badBatches.limited(now: now) { held in
                log.warning("a batch was refused", ["reason": "\(error)", "alsoHeldBack": held])
            }
            return nil
        }
    }

    /// A batch, and those behind it that were held.
    private func receive(
        _ first: ChangeBatch, _ bytes: [UInt8], by replica: Replica, busSequence: UInt64, now: Int64
    ) throws {
        var pending: [UInt8]? = bytes
        var sequence = busSequence
        var known: ChangeBatch? = first
        while let bytes = pending {
            pending = nil
            guard let batch = known ?? decode(bytes, now: now) else { return }
            known = nil
            let partition = Int(batch.header.partition)
            switch replica.withFeed(partition, { $0.verdict(batch.header.seq) }) {
            case .drop: return
            case .hold: replica.withFeed(partition) { $0.hold(batch.header.seq, bytes, now: now) }
            case .apply:
                pending = try replica.apply(batch, busSequence: sequence, now: now)
                applied(batch, by: replica)
            }
            sequence = 0
        }
    }

    private func applied(_ batch: ChangeBatch, by replica: Replica) {
        figures.applied(batch, now: clock.now)
        guard replica === active else { return }
        waiters.check(replica.positions)
        stream.publish(batch, pipeline: pipeline)
    }

    private func replicas(of lineage: Lineage) -> [Replica] {
        [active, next].compactMap { $0 }.filter { $0.lineage == lineage }
    }

    private func hear(_ heartbeat: Heartbeat, now: Int64) throws {
        let age = sendingTimes.age(of: heartbeat.sender, sent: heartbeat.sent, read: clock.unset)
        var followers = replicas(of: heartbeat.lineage)
        if followers.isEmpty { remember(heartbeat) }
        if followers.isEmpty, let begun = try begin(heartbeat, now: now) { followers = [begun] }
        for replica in followers {
            for head in heartbeat.heads where Int(head.partition) < replica.partitions {
                replica.withFeed(Int(head.partition)) { $0.heard(head: head.seq, now: now) }
                compareDigest(head, of: replica)
            }
            if replica === next { heardBeside.formUnion(heartbeat.heads.map(\.partition)) }
        }
        guard let replica = active, replica.lineage == heartbeat.lineage else { return }
        if differing.contains(where: { $0.value >= Self.differencesBorne }), next == nil {
            // Said once, however many heartbeats pass until there is a snapshot to begin with.
            if !status.hasDiverged { log.error("this replica is made anew beside itself", ["copy": copy + 1]) }
            current.withLock { $0.hasDiverged = true }
            _ = try begin(heartbeat, copy: copy + 1, now: now)
        }
        let sent = age.map { now - $0 } ?? began
        current.withLock {
            $0.partitions = replica.partitions
            for head in heartbeat.heads where Int(head.partition) < replica.partitions {
                $0.hear(head, sent: sent, sentAt: heartbeat.sentAt)
            }
            if replica.isComplete { $0.becameComplete() }
        }
    }

    /// A replica that begins later must know of it: another sender, which hears of the log's end later, may be heard next.
    private func remember(_ heartbeat: Heartbeat) {
        var heads = heardBefore?.lineage == heartbeat.lineage ? heardBefore?.heads ?? [:] : [:]
        for head in heartbeat.heads { heads[head.partition] = max(head.seq, heads[head.partition] ?? 0) }
        heardBefore = (heartbeat.lineage, heads)
    }

    /// A log of another lineage: its replica is built beside the one that serves, from a snapshot where there is one.
    private func begin(_ heartbeat: Heartbeat, copy: Int = 0, now: Int64) throws -> Replica? {
        guard bootstrap == nil else { return nil }
        let batches = heartbeat.heads.reduce(0) { $0 + $1.seq }
        if let place = configuration.snapshots, let source = place.source, batches >= place.bootstrapBatchesMin,
            !FileManager.default.fileExists(atPath: path(of: heartbeat.lineage, copy))
        {
            if let signed = offered(by: source, trusting: place.keys, of: heartbeat) {
                log.info("fetching a snapshot", ["snapshot": signed.name, "bytes": signed.manifest.bytes])
                waitingSince = nil
                bootstrap = (
                    heartbeat.lineage, copy, heartbeat.partitions,
                    Bootstrap(
                        signed, from: source, at: place, into: path(of: heartbeat.lineage, copy), figures: snapshots)
                )
                return nil
            }
            // A sealer says every two seconds what it has.
            if waitingSince?.lineage != heartbeat.lineage { waitingSince = (heartbeat.lineage, now) }
            if let waitingSince, now - waitingSince.at < Self.offerMicroseconds { return nil }
        }
        waitingSince = nil
        let replica = try follow(heartbeat.lineage, copy, partitions: heartbeat.partitions)
        subscribeFromStart()
        return replica
    }

    private static let offerMicroseconds: Int64 = 5_000_000

    /// The newest snapshot that this region may begin with.
    private func offered(
        by source: any SnapshotSource, trusting keys: TrustedKeys, of heartbeat: Heartbeat
    ) -> SignedManifest? {
        let terms = SnapshotLoader.terms(
            pipeline, model, partitions: heartbeat.partitions, lineage: heartbeat.lineage)
        do {
            guard let envelope = try source.latest() else { return nil }
            let signed = try SignedManifest(decoding: envelope, trusting: keys)
            try terms.check(signed.manifest)
            return signed.manifest.tables.isEmpty ? nil : signed
        } catch {
            let refusal = error as? SnapshotRefusal ?? SnapshotRefusal(.unavailable, "\(error)")
            snapshots.refused(refusal, name: "the one offered")
            busErrors.limited(now: clock.now) { _ in
                log.warning("a snapshot was refused", ["reason": refusal.reason.rawValue, "detail": refusal.detail])
            }
            return nil
        }
    }

    private func finishBootstrap() throws {
        guard let bootstrap else { return }
        switch bootstrap.work.state {
        case .running: return
        case .done:
            let replica = try follow(bootstrap.lineage, bootstrap.copy, partitions: bootstrap.partitions)
            log.info("began with a snapshot", ["snapshot": replica.vectors.snapshot, "rows": replica.vectors.rows])
            snapshots.didInstall()
            tell("the stream could not be followed") { try bus.subscribe(after: replica.busSequence) }
        case .failed(let refusal):
            snapshots.refused(refusal, name: "the one to begin with")
            log.warning(
                "beginning without a snapshot", ["reason": refusal.reason.rawValue, "detail": refusal.detail])
            _ = try follow(bootstrap.lineage, bootstrap.copy, partitions: bootstrap.partitions)
            subscribeFromStart()
        }
        self.bootstrap = nil
    }

    private func follow(_ lineage: Lineage, _ copy: Int, partitions: Int) throws -> Replica {
        log.info("following a log", ["lineage": lineage, "partitions": partitions, "copy": copy])
        let replica = try open(lineage, copy, partitions: partitions)
        if let known = heardBefore, known.lineage == lineage {
            for (partition, seq) in known.heads where Int(partition) < partitions {
                replica.withFeed(Int(partition)) { $0.heard(head: seq, now: clock.now) }
            }
            heardBefore = nil
        }
        if active == nil {
            activate(replica, copy)
        } else {
            next = replica
            nextCopy = copy
            heardBeside = []
            beside.withLock { $0 = lineage }
        }
        return replica
    }

    private func promote() {
        guard let candidate = next, heardBeside.count >= candidate.partitions, candidate.isComplete,
            candidate.positions.contains(where: { $0.seq > 0 })
        else {
            return
        }
        let diverged = active.flatMap { $0.lineage == candidate.lineage ? $0 : nil }
        // What serves never goes back.
        if let diverged, zip(candidate.positions, diverged.positions).contains(where: { $0.seq < $1.seq }) { return }
        log.info("another log takes over", ["lineage": candidate.lineage, "copy": nextCopy])
        next = nil
        beside.withLock { $0 = nil }
        let former = copy
        activate(candidate, nextCopy)
        if let diverged { remove(diverged, path(of: diverged.lineage, former)) }
    }

    /// A copy that nobody is to read any more; whoever reads it now still has its files open.
    private func remove(_ replica: Replica, _ path: String) {
        do {
            for file in [path, path + ".partitions"] { try FileManager.default.removeItem(atPath: file) }
        } catch {
            log.warning("a diverged copy could not be removed", ["path": path, "error": "\(error)"])
        }
    }

    private func activate(_ replica: Replica, _ copy: Int) {
        active = replica
        self.copy = copy
        differing = [:]
        serving.withLock { $0 = replica }
        current.withLock { $0.hasDiverged = false }
        do {
            try "\(replica.lineage) \(copy)\n".write(
                toFile: configuration.path + "/current", atomically: true, encoding: .utf8)
        } catch {
            log.error("the folder's note of its lineage cannot be written", ["error": "\(error)"])
        }
    }

    /// Equal at the same seq, or something here is not what the log says.
    private func compareDigest(_ head: Heartbeat.Head, of replica: Replica) {
        guard head.digest != 0, Int(head.partition) < replica.positions.count else { return }
        let own = replica.positions[Int(head.partition)]
        guard own.seq == head.seq else { return }
        guard own.digest != head.digest else {
            if replica === active { differing[head.partition] = nil }
            return
        }
        if replica === active { differing[head.partition, default: 0] += 1 }
        figures.diverged()
        divergences.limited(now: clock.now) { _ in
            log.error("this replica differs from the log", ["partition": head.partition, "seq": head.seq])
        }
    }

    /// Heartbeats in a row that must say so: one could have crossed with something.
    private static let differencesBorne = 3

    private func repair(now: Int64) {
        for replica in [active, next].compactMap({ $0 }) {
            for partition in 0..<replica.partitions {
                guard let range = replica.withFeed(partition, { $0.repair(now: now) }) else { continue }
                figures.repaired()
                repairsInSilence += 1
                // The stream may have been deleted, or made anew behind our place.
                if repairsInSilence % 8 == 0 { subscribed = false }
                let request = RepairRequest(
                    lineage: replica.lineage, partition: UInt32(partition), after: range.after, through: range.through)
                tell("a repair could not be asked for") { try bus.request(request) }
                // No relay answers: what the stream still holds may close the gap.
                if replica.withFeed(partition, { $0.unanswered }) % 5 == 4 { subscribeFromStart() }
            }
        }
    }

    private func subscribeFromStart() { tell("the stream could not be read again") { try bus.subscribeFromStart() } }

    /// The bus may fail at any moment: that is told, and asked for again later, and the region goes on.
    private func tell(_ message: StaticString, _ ask: () throws -> Void) {
        do {
            try ask()
        } catch {
            busErrors.limited(now: clock.now) { held in
                log.warning(message, ["error": "\(error)", "alsoHeldBack": held])
            }
        }
    }

    private func refresh(connected: Bool, now: Int64) {
        let complete = active?.isComplete ?? false
        let repairing = active.map { replica in replica.feeds.contains { $0.isRepairing } } ?? false
        let heard = current.withLock { status in
            status.isConnected = connected
            status.isRepairing = repairing
            status.isComplete = complete && status.heardAt > 0
            // A new view serves from its first complete moment on; an old one serves from the start.
            if status.isComplete { status.hasView = true }
            if status.isComplete, now - status.heardAt <= RegionStatus.silenceMicroseconds,
                status.completeAt < status.heardAt
            {
                status.becameComplete()
            }
            return status
        }
        if heard.isComplete != wasComplete {
            wasComplete = heard.isComplete
            if wasComplete { log.debug("complete") }
        }
    }

    /// Writes everything, before a planned stop.
    package func close() {
        stream.close()
        bootstrap?.work.stop()
        for replica in [active, next].compactMap({ $0 }) {
            do {
                try replica.close(now: clock.now)
            } catch {
                log.error("the replica could not be written", ["error": "\(error)"])
            }
        }
    }
}
