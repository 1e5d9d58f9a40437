import Edge
import Replicate
import Service

/// The sealer's steps, and those in which a region takes snapshots.
extension History: SnapshotWorld {
    var sealerStore: SnapshotStore? { sealer.flatMap { $0.life.isDead || $0.bus.isCut ? nil : $0.store } }

    var announced: [UInt8]? { sealer.flatMap { $0.life.isDead || $0.bus.isCut ? nil : $0.announced.envelope } }

    func others() { nest(1 + random.below(20)) }

    func mendLater(_ bus: SimulatedBus.Subscriber) {
        mends.append((time.now + random.time(10_000_000), { bus.isCut = false }))
    }

    // MARK: the sealer

    func startSealer() {
        guard let restart = sealerRestart, restart.at <= time.now else { return }
        sealerRestart = nil
        do {
            sealer = try SimulatedSealer(
                folder: restart.folder, key: key, bus: bus, clock: SimulatedClock(time), pipeline: pipeline,
                world: self)
            note("sealer starts", incarnations, 0)
        } catch { oracle.find("the sealer does not start: \(error)") }
    }

    func run(_ sealer: SimulatedSealer, seals: Bool) {
        sealer.life.isBusy = true
        do {
            while try sealer.region.step(waitMicroseconds: 0) {}
            if seals, try sealer.sealer.step() {
                let current = try sealer.store.current?.manifest
                note("snapshot", Int(current?.number ?? 0), current?.segments.count ?? 0)
                if let current { check(current) }
                count(sealer.region, "of the sealer")
            }
        } catch is CancellationError {} catch { oracle.find("the sealer failed: \(error)") }
        sealer.life.isBusy = false
        for (partition, position) in sealer.region.positions.enumerated() {
            oracle.check(view: "the sealer", partition, seq: position.seq, digest: position.digest)
        }
        if sealer.life.isDead { bury(sealer) }
    }

    private func check(_ manifest: SnapshotManifest) {
        for (partition, position) in manifest.positions.enumerated() {
            oracle.check(view: "snapshot \(manifest.number)", partition, seq: position.seq, digest: position.digest)
        }
    }

    func publishes(_ life: Life) throws {
        guard !isCalm else { return }
        if random.oneIn(3) { nest(1 + random.below(6)) }
        if random.oneIn(40) {
            note("dies in a publication", 0, 0)
            life.isDead = true
        }
        if life.isDead { throw CancellationError() }
    }

    func crash(_ sealer: SimulatedSealer) {
        note("sealer crashes", incarnations, 0)
        sealer.life.isDead = true
        if !sealer.life.isBusy { bury(sealer) }
    }

    private func bury(_ dead: SimulatedSealer) {
        sealer = nil
        bus.remove(dead.bus)
        incarnations += 1
        sealerRestart = (
            time.now + random.time(4_000_000), folderAfterCrash(dead.folder, "\(folder)/sealer-\(incarnations)")
        )
    }

    // MARK: regions

    func takeSnapshots(_ region: SimulatedRegion) {
        let fate: SimulatedSnapshotSource.Fate =
            isCalm ? .whole : [.breaksOff, .damaged, .dies, .whole, .whole, .whole, .whole, .whole][random.below(8)]
        region.source.prepare(fate, share: Double(random.below(1000)) / 1000)
        region.life.isBusy = true
        let before = region.region.census?.snapshot
        let did = region.proceedWithSnapshots()
        region.life.isBusy = false
        if region.life.isDead { return bury(region) }
        guard did, let census = region.region.census else { return }
        if census.snapshot != before {
            note("snapshot in place", Int(before ?? 0), Int(census.snapshot))
            if !census.hasReachedSnapshot {
                oracle.find("region \(region.name) serves snapshot \(census.snapshot) and has not applied all of it")
            }
        }
        oracle.check(census, of: region.name)
    }

    func count(_ region: Region, _ name: String) { if let census = region.census { oracle.check(census, of: name) } }

    /// An operator asks for an older snapshot, and later for the newest again.
    func pin(_ region: SimulatedRegion) {
        guard let names = try? region.store.manifests.map(\.name), !names.isEmpty else { return }
        let name = names[random.below(names.count)]
        note("pin", Int(name.number), 0)
        do {
            try region.store.pin(name.number)
            // Not the region: it may be dead by then, and its files another process's.
            let store = region.store
            mends.append((time.now + random.time(30_000_000), { [weak self] in self?.unpin(store) }))
        } catch { oracle.find("\(name) cannot be pinned: \(error)") }
    }

    func unpin(_ store: SnapshotStore) {
        do { try store.unpin() } catch { oracle.find("what was pinned cannot be unpinned: \(error)") }
    }
}
