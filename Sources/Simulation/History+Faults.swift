import Changes
import Core

/// What goes wrong between two steps, and how processes start again.
extension History {
    func injectFault() {
        let kind = random.below(24)
        // Where nobody is left to suffer it: let time pass.
        guard kind < 23, !workers.isEmpty, !regions.isEmpty else { return leap() }
        let worker = workers[random.below(workers.count)]
        let region = regions[random.below(regions.count)]
        switch kind {
        case 0..<3: crash(worker)
        case 3..<6: pause(worker)
        case 6..<8: cut(worker)
        case 8..<10:
            note("rebalance", 0, 0)
            brokers.group.rebalance(time.now)
        case 10: if !worker.isBusy { fillDisk(worker) }
        case 11: jump(worker.clock)
        case 12: jump(region.clock)
        case 13..<15: crash(region)
        case 15: cut(region)
        case 16: cutBus(worker)
        case 17: cutStandby()
        case 18: if let sealer { crash(sealer) }
        case 19: if let sealer { cut(sealer) }
        case 20: if let sealer { jump(sealer.clock) }
        case 21: pin(region)
        default: retain()
        }
    }

    // MARK: cores

    /// Ends a process between two steps, or, where it stands in a call, before that returns.
    private func crash(_ worker: SimulatedWorker) {
        note("crash", worker.slot, worker.client.incarnation)
        worker.client.isDead = true
        if worker.isAtRest { bury(worker) }
    }

    /// A dead process goes. Its slot is started again, unless another has it by now.
    func bury(_ worker: SimulatedWorker) {
        worker.client.besides = []
        workers.removeAll { $0 === worker }
        guard !workers.contains(where: { $0.slot == worker.slot }), worker.slot < slots,
            !restarts.contains(where: { $0.slot == worker.slot })
        else { return }
        incarnations += 1
        var next = worker.folder
        switch random.below(4) {
        case 0:
            // What was not in any file is lost.
            next = "\(folder)/core-\(worker.slot)-\(incarnations)"
            CrashedFiles.copy(worker.folder, to: next)
        case 1: next = "\(folder)/core-\(worker.slot)-\(incarnations)"
        default: break
        }
        let delay = random.oneIn(4) ? random.time(9_000_000) : random.time(400_000)
        restarts.append((worker.slot, time.now + delay, next))
    }

    /// Its machine stops it for a while. Another may take the slot meanwhile: then it goes on as a zombie.
    private func pause(_ worker: SimulatedWorker) {
        let length = random.time(20_000_000)
        note("pause", worker.slot, worker.client.incarnation, Int(length))
        worker.pausedUntil = max(worker.pausedUntil, time.now + length)
        guard random.oneIn(2), workers.count(where: { $0.slot == worker.slot }) < 2,
            !restarts.contains(where: { $0.slot == worker.slot })
        else { return }
        incarnations += 1
        restarts.append(
            (worker.slot, time.now + random.time(length + 1), "\(folder)/core-\(worker.slot)-\(incarnations)"))
    }

    private func cut(_ worker: SimulatedWorker) {
        note("cut from the brokers", worker.slot, worker.client.incarnation)
        let client = worker.client
        client.isCut = true
        mends.append((time.now + random.time(15_000_000), { client.isCut = false }))
    }

    private func cutBus(_ worker: SimulatedWorker) {
        note("cut from the bus", worker.slot, worker.client.incarnation)
        let publisher = worker.publisher
        publisher.isCut = true
        mends.append((time.now + random.time(10_000_000), { publisher.isCut = false }))
    }

    private func fillDisk(_ worker: SimulatedWorker) {
        note("full disk", worker.slot, worker.client.incarnation)
        worker.fillDisk()
    }

    // MARK: regions and all

    private func crash(_ region: SimulatedRegion) {
        note("region crashes", regions.count, 0)
        region.life.isDead = true
        if !region.life.isBusy { bury(region) }
    }

    func bury(_ region: SimulatedRegion) {
        regions.removeAll { $0 === region }
        bus.remove(region.bus)
        incarnations += 1
        let next = folderAfterCrash(region.folder, "\(folder)/\(region.name)-\(incarnations)")
        regionRestarts.append((region.name, time.now + random.time(3_000_000), next))
    }

    /// Mostly the same folder; or what was in its files; or nothing.
    func folderAfterCrash(_ path: String, _ other: String) -> String {
        guard random.oneIn(3) else { return path }
        if random.oneIn(2) { CrashedFiles.copy(path, to: other) }
        return other
    }

    private func cut(_ sealer: SimulatedSealer) {
        note("sealer cut from the bus", 0, 0)
        sealer.bus.isCut = true
        mendLater(sealer.bus)
    }

    private func cut(_ region: SimulatedRegion) {
        note("region cut from the bus", regions.count, 0)
        let bus = region.bus
        bus.isCut = true
        mends.append((time.now + random.time(10_000_000), { bus.isCut = false }))
    }

    private func cutStandby() {
        note("standby cut from the bus", 0, 0)
        standbyPublisher.isCut = true
        mends.append((time.now + random.time(20_000_000), { [standbyPublisher] in standbyPublisher.isCut = false }))
    }

    private func jump(_ clock: SimulatedClock) {
        let by = random.oneIn(2) ? random.time(4_000_000) - 2_000_000 : random.time(7_200_000_000) - 3_600_000_000
        note("clock jumps", Int(by), 0)
        clock.jump(by)
    }

    private func retain() {
        let partition = random.below(partitions)
        // Of what is scored already some goes, as retention would have it.
        let until = oracle.position(partition)
        note("retention", partition, Int(until))
        brokers.retain(partition, from: until)
    }

    private func leap() {
        let by = random.time(12_000_000)
        note("nothing happens", Int(by), 0)
        isQuiet = true
        for _ in 0..<24 {
            pass(by / 24)
            nest(3)
        }
        isQuiet = false
    }

    // MARK: starting again

    /// Mends what is due, and starts what is due.
    func revive() {
        let now = time.now
        for mend in mends where mend.at <= now { mend.mend() }
        mends.removeAll { $0.at <= now }
        // What starts may let others start meanwhile: each is taken when its turn comes.
        while let restart = restarts.first(where: { $0.at <= now }) { start(restart.slot, restart.folder) }
        while let restart = regionRestarts.first(where: { $0.at <= now }) { startRegion(restart.name, restart.folder) }
        startSealer()
    }

    private func start(_ slot: Int, _ path: String) {
        restarts.removeAll { $0.slot == slot }
        incarnations += 1
        note("start", slot, incarnations)
        let client = SimulatedClient(brokers, slot: slot, incarnation: incarnations, world: self)
        do {
            let worker = try SimulatedWorker(
                client, clock: SimulatedClock(time), folder: path, bus: bus, pipeline: pipeline,
                variant: configuration.variant, batchMax: 8 + random.below(24),
                changeBytesMax: incarnations % 2 == 0 ? 2048 : ChangeBatch.bodyBytesAimed, oracle: oracle)
            workers.append(worker)
        } catch {
            if !(error is SimulatedFailure) { oracle.find("core \(slot) does not start: \(error)") }
            restarts.append((slot, time.now + 1_000_000, path))
        }
    }

    private func startRegion(_ name: String, _ path: String) {
        regionRestarts.removeAll { $0.name == name }
        do {
            let region = try SimulatedRegion(
                name: name, folder: path, key: key, bus: bus, clock: SimulatedClock(time), pipeline: pipeline,
                variant: configuration.snapshotVariant, world: self)
            if isCalm { unpin(region.store) }
            regions.append(region)
        } catch { oracle.find("region \(name) does not start: \(error)") }
    }
}
