import Foundation
import Edge
import Features
import Replicate
import Service

/// The sealer's process: a replica of its own over the simulated bus, and real files.
final class SimulatedSealer {
    let region: Region
    let bus: SimulatedBus.Subscriber
    let store: SnapshotStore
    let sealer: Sealer
    let clock: SimulatedClock
    let folder: String
    let life: Life
    let announced: Announced

    /// What it told the regions last.
    ///
    /// `@unchecked Sendable`: a history runs in one thread.
    final class Announced: @unchecked Sendable {
        var envelope: [UInt8]?
    }

    init(
        folder: String, key: SigningKey, bus: SimulatedBus, clock: SimulatedClock, pipeline: Pipeline,
        world: any SnapshotWorld
    ) throws {
        self.folder = folder
        self.clock = clock
        let (life, subscriber, steady) = (Life(world), bus.makeSubscriber(), SteadyClock(clock))
        self.life = life
        let announced = Announced()
        self.announced = announced
        self.bus = subscriber
        store = try SnapshotStore(
            path: folder + "/snapshots", trusting: key.trusted, mode: .writing, interrupt: { _ in try life.publishes() }
        )
        var configuration = Region.Configuration(name: "sealer", path: folder)
        configuration.isSealer = true
        configuration.snapshots = SnapshotPlace(store: store, source: nil, keys: key.trusted)
        let quiet = Log(role: "sealer", minimum: .error)
        region = try Region(
            configuration, pipeline: pipeline, model: nil, bus: subscriber, log: quiet, clock: steady)
        var sealing = Sealer.Configuration()
        sealing.rows = 150
        sealing.rowsMin = 40
        sealing.intervalMicroseconds = 6_000_000
        sealing.keep = 3
        sealing.fanOut = 3
        sealer = try Sealer(
            region, store: store, key: key, configuration: sealing, log: quiet, clock: steady,
            announce: { announced.envelope = $0.encoded })
    }
}

/// Whether a process lives, and whether it stands in the middle of a step while others run.
///
/// `@unchecked Sendable`: a history runs in one thread.
final class Life: @unchecked Sendable {
    var isDead = false
    var isBusy = false
    private unowned let world: any SnapshotWorld

    init(_ world: any SnapshotWorld) { self.world = world }

    /// Called in the middle of a publication.
    func publishes() throws { try world.publishes(self) }
}
