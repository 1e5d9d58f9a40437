import Foundation
import Edge
import Features
import Replicate
import Service

/// One region's process: its replica follows the simulated bus, and takes the sealer's snapshots.
final class SimulatedRegion {
    let name: String
    let region: Region
    let bus: SimulatedBus.Subscriber
    let clock: SimulatedClock
    private let steady: SteadyClock
    let folder: String
    let store: SnapshotStore
    let source: SimulatedSnapshotSource
    let follower: SnapshotFollower
    let life: Life
    private let waiting: Waiting

    /// What runs beside the applier in production, and here in a step of its own.
    ///
    /// `@unchecked Sendable`: a history runs in one thread.
    private final class Waiting: @unchecked Sendable {
        var work: [@Sendable () -> Void] = []
    }

    init(
        name: String, folder: String, key: SigningKey, bus: SimulatedBus, clock: SimulatedClock, pipeline: Pipeline,
        variant: SnapshotVariant, world: any SnapshotWorld
    ) throws {
        self.name = name
        self.folder = folder
        self.clock = clock
        let (life, waiting) = (Life(world), Waiting())
        self.life = life
        self.waiting = waiting
        steady = SteadyClock(clock)
        self.bus = bus.makeSubscriber()
        store = try SnapshotStore(
            path: folder + "/snapshots", trusting: key.trusted, holding: .segments, mode: .writing,
            interrupt: { _ in try life.publishes() })
        source = SimulatedSnapshotSource(world, into: store, trusting: key.trusted, bus: self.bus, life: life)
        var place = SnapshotPlace(store: store, source: source, keys: key.trusted)
        place.limits.attemptsMax = 2
        place.limits.backoffMilliseconds = 0
        place.bootstrapBatchesMin = 20
        place.beside = { waiting.work.append($0) }
        var configuration = Region.Configuration(name: name, path: folder)
        configuration.snapshots = place
        let quiet = Log(role: name, minimum: .error)
        region = try Region(
            configuration, pipeline: pipeline, model: nil, bus: self.bus, log: quiet, clock: steady)
        var following = SnapshotFollower.Configuration()
        following.keep = 2
        following.ownRows = 60
        following.ownAfterMicroseconds = 40_000_000
        following.variant = variant
        guard let follower = SnapshotFollower(region, configuration: following, log: quiet, clock: steady) else {
            preconditionFailure("the place above has a source")
        }
        self.follower = follower
    }

    /// Begins with a snapshot, where that is due, or does what the follower has to do. Returns whether anything was.
    func proceedWithSnapshots() -> Bool {
        guard waiting.work.isEmpty else {
            waiting.work.removeFirst()()
            return true
        }
        return follower.step()
    }

    var state: RegionState { region.status.state(now: steady.now) }

    /// How long what was committed may be unknown to a region that calls itself fresh: the silence that it bears since
    /// a heartbeat was sent, a relay's trust in what it last heard from the brokers, and the least way of a heartbeat.
    static let unknownMicroseconds: Int64 = silenceMicroseconds + 4_500_000 + 500_000
    /// Three seconds by a clock that may run a sixteenth slower than it should: fifteen of its seconds take sixteen.
    static let silenceMicroseconds: Int64 = 3_000_000 * 16 / 15

    /// What the region says must be true.
    func check(_ oracle: Oracle, partitions: Int, now: Int64) {
        let positions = region.positions
        for (partition, position) in positions.enumerated() {
            oracle.check(view: "region \(name)", partition, seq: position.seq, digest: position.digest)
        }
        if region.figures.divergences > 0 { oracle.find("region \(name) found itself different from the log") }
        guard state == .fresh else { return }
        for partition in 0..<partitions {
            let applied = partition < positions.count ? positions[partition].seq : 0
            for head in bus.heard
            where head.partition == partition && head.at < now - Self.silenceMicroseconds && head.seq > applied {
                oracle.find(
                    "region \(name) says fresh at \(applied) of partition \(partition), and heard of \(head.seq) "
                        + "\((now - head.at) / 1000) ms ago")
            }
            let due = oracle.head(partition, by: now - Self.unknownMicroseconds)
            if applied < due {
                let last = bus.heard.filter { $0.partition == partition }.suffix(4).map {
                    "\($0.seq) \((now - $0.at) / 1000) ms ago"
                }
                oracle.find(
                    "region \(name) says fresh at \(applied) of partition \(partition), where \(due) was committed long ago; "
                        + "it heard of \(last.joined(separator: ", "))")
            }
        }
    }
}
