import Changes
import Core
import Features
import Replicate
import Service
import Storage
import Transactions

/// One core's process: the scoring loop over its own view, and its relay, as the command line wires them.
final class SimulatedWorker {
    let client: SimulatedClient
    let clock: SimulatedClock
    private let steady: SteadyClock
    let folder: String
    let log: TransactionalLog<SimulatedClient>
    let loop: ScoringLoop
    let figures = CoreFigures()
    let publisher: SimulatedBus.Publisher
    let relay: Relay
    private let view: View
    private let disk: SimulatedDisk
    /// Its loop or its relay stands in the middle of a step, while others run.
    var isBusy = false
    /// So many takeovers and looks at the brokers stand in the middle of a call.
    var besidesBegun = 0
    /// Nothing of it is on the stack.
    var isAtRest: Bool { !isBusy && besidesBegun == 0 }
    /// It does nothing until then: stopped by its machine, not dead.
    var pausedUntil: Int64 = 0

    var slot: Int { client.slot }

    /// Starts a process. Fails where the brokers do not answer, or where it dies at once.
    init(
        _ client: SimulatedClient, clock: SimulatedClock, folder: String, bus: SimulatedBus, pipeline: Pipeline,
        variant: ProtocolVariant, batchMax: Int, changeBytesMax: Int, oracle: Oracle
    ) throws {
        self.client = client
        self.clock = clock
        steady = SteadyClock(clock)
        self.folder = folder
        let disk = SimulatedDisk()
        self.disk = disk
        var storage = Store.Configuration()
        storage.isFull = { disk.isFull }
        view = try View(path: folder, storage)
        for partition in 0..<client.partitions {
            if let position = try view.position(.tiles, partition: UInt32(partition)) {
                oracle.check(
                    view: "the view of core \(client.slot)", partition, seq: position.seq, digest: position.digest)
            }
        }
        let quiet = Log(role: "core", minimum: .error)
        var configuration = TransactionalLog<SimulatedClient>.Configuration()
        configuration.variant = variant
        log = try TransactionalLog(client, configuration, slot: client.slot, log: quiet, clock: steady)
        loop = try ScoringLoop(
            log: log, view: view, pipeline: pipeline, model: nil, figures: figures, clock: steady,
            eventsMax: batchMax, variant: variant, changeBytesMax: changeBytesMax)
        publisher = SimulatedBus.Publisher(bus)
        relay = Relay(
            source: WorkerChangelog(log: log, figures: figures), publisher: publisher, log: quiet, clock: steady)
    }

    var isDiskFull: Bool { disk.isFull }

    /// From now on the view's disk takes nothing more.
    func fillDisk() { disk.isFull = true }
}

/// `@unchecked Sendable`: a history runs in one thread.
private final class SimulatedDisk: @unchecked Sendable {
    var isFull = false
}

/// A core's own log, as its relay reads it: no heartbeat while the brokers do not answer.
struct WorkerChangelog: ChangelogSource {
    let log: TransactionalLog<SimulatedClient>
    let figures: CoreFigures

    var lineage: Lineage { log.lineage }
    var partitions: Int { log.partitions }

    func end(of partition: Int) -> UInt64 { log.changelogEnd(of: partition) ?? 0 }

    func batches(
        of partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws { try unsafe log.changelog(of: partition, after: seq, visit) }

    func head(of partition: Int) -> Heartbeat.Head? {
        guard let end = log.vouchedEnd(of: partition) else { return nil }
        guard let position = figures.current.positions[partition], position.seq == end else {
            return .init(partition: UInt32(partition), seq: end, digest: 0, commitTime: 0, watermark: 0)
        }
        return .init(
            partition: UInt32(partition), seq: end, digest: position.digest, commitTime: position.commitTime,
            watermark: position.watermark)
    }
}

/// The log as a relay beside the cores follows it.
///
/// `@unchecked Sendable`: a history runs in one thread.
struct StandbyChangelog: ChangelogSource, @unchecked Sendable {
    let brokers: SimulatedBrokers

    var lineage: Lineage { brokers.lineage }
    var partitions: Int { brokers.partitions }

    func end(of partition: Int) -> UInt64 { brokers.changelogEnd(partition) }

    func batches(
        of partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        try brokers.committed(partition, after: seq) { record in
            guard record.seq > seq else { return true }
            return try unsafe record.changes.withUnsafeBytes { try unsafe visit(record.seq, $0) }
        }
    }

    func head(of partition: Int) -> Heartbeat.Head? {
        .init(partition: UInt32(partition), seq: end(of: partition), digest: 0, commitTime: 0, watermark: 0)
    }
}
