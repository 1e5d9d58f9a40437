import Replicate

/// A region's way to the sealer's store: it may be cut, bring what was damaged, or see the region die.
///
/// What happens in a fetch is decided once, before it begins, and falls on one of the files that are missing, whichever
/// these are: how many files a checkpoint has is RocksDB's to say, and must not change a history.
///
/// `@unchecked Sendable`: a history runs in one thread.
final class SimulatedSnapshotSource: SnapshotSource, @unchecked Sendable {
    enum Fate {
        case whole, breaksOff, damaged, dies
    }

    private unowned let world: any SnapshotWorld
    private let keys: TrustedKeys
    private let store: SnapshotStore
    private let bus: SimulatedBus.Subscriber
    private let life: Life
    /// What was announced last.
    private var heard: [UInt8]?
    private var fate = Fate.whole
    private var share = 0.0
    /// The file on which the fate falls; `nil` before the fetch begins.
    private var target: String?
    private var hasBegun = false

    init(
        _ world: any SnapshotWorld, into store: SnapshotStore, trusting keys: TrustedKeys,
        bus: SimulatedBus.Subscriber, life: Life
    ) {
        self.world = world
        self.store = store
        self.keys = keys
        self.bus = bus
        self.life = life
    }

    /// Before a step in which a fetch may begin. `share`: on which of the missing files its fate falls, from 0 to 1.
    func prepare(_ fate: Fate, share: Double) {
        self.fate = fate
        self.share = share
        target = nil
        hasBegun = false
    }

    func latest() throws -> [UInt8]? {
        if !bus.isCut, let announced = world.announced { heard = announced }
        return heard
    }

    func chunk(of file: SnapshotFile, offset: Int, length: Int) throws -> [UInt8] {
        if !hasBegun { try begin() }
        guard !life.isDead else { throw SnapshotRefusal(.unavailable, "this process has ended") }
        guard !bus.isCut, let sealer = world.sealerStore else {
            throw SnapshotRefusal(.unavailable, "no answer came")
        }
        var bytes: [UInt8]
        switch SnapshotServer(sealer).answer(.chunk(sha256: file.sha256, offset: offset, length: length)) {
        case .bytes(let part): bytes = part
        case .refused(let refusal): throw refusal
        case .nothing: throw SnapshotRefusal(.unavailable, "the file is not there")
        }
        guard file.sha256 == target else { return bytes }
        switch fate {
        case .whole: return bytes
        case .breaksOff:
            // A part of the first answer comes, and then none.
            target = ""
            bus.isCut = true
            world.mendLater(bus)
            return Array(bytes.prefix((bytes.count + 1) / 2))
        case .damaged:
            target = ""
            bytes[bytes.count / 2] ^= 4
            return bytes
        case .dies:
            life.isDead = true
            throw SnapshotRefusal(.unavailable, "this process has ended")
        }
    }

    private func begin() throws {
        hasBegun = true
        guard let heard else { return }
        let manifest = try SignedManifest(decoding: heard, trusting: keys).manifest
        // The tables are asked for by a new replica alone; a segment is in either.
        let missing = try manifest.files(.segments).filter { try !store.holds($0) }
        if !missing.isEmpty { target = missing[Int(share * Double(missing.count))].sha256 }
        world.others()
    }
}

/// What a fetch needs of the history around it.
protocol SnapshotWorld: AnyObject {
    /// The sealer's files, while it lives.
    var sealerStore: SnapshotStore? { get }
    /// The envelope that the sealer announced last, as long as it can be heard.
    var announced: [UInt8]? { get }
    /// Others run in the middle of a fetch.
    func others()
    /// In the middle of a publication others run, and the process may die: then it throws.
    func publishes(_ life: Life) throws
    func mendLater(_ bus: SimulatedBus.Subscriber)
}
