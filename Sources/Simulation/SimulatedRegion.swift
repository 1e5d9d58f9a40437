import Foundation
import Edge
import Features
import Service

/// One region's process: its replica follows the simulated bus.
final class SimulatedRegion {
    let name: String
    let region: Region
    let bus: SimulatedBus.Subscriber
    let clock: SimulatedClock
    private let steady: SteadyClock
    let folder: String

    init(name: String, folder: String, bus: SimulatedBus, clock: SimulatedClock, pipeline: Pipeline)
        throws
    {
        self.name = name
        self.folder = folder
        self.clock = clock
        steady = SteadyClock(clock)
        self.bus = bus.makeSubscriber()
        region = try Region(
            .init(name: name, path: folder), pipeline: pipeline, model: nil, bus: self.bus,
            log: Log(role: name, minimum: .error), clock: steady)
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
