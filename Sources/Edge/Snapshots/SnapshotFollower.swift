import Foundation
import Replicate
import Scoring
import Service
import Vectors

/// Keeps a region's segments up to date: fetches a new snapshot, checks it, and puts it in place; where none comes for
/// long, seals the region's own tail, so that queries do not slow down in an outage.
///
/// One thread calls `step`; it blocks for as long as a fetch or the building of a segment takes.
package final class SnapshotFollower {
    package struct Configuration: Sendable {
        /// Snapshots that stay on the disk for a rollback.
        package var keep = 3
        /// A tail of so many rows is sealed here,
        package var ownRows = 100_000
        /// when no snapshot has come for so long.
        package var ownAfterMicroseconds: Int64 = 120_000_000
        package var threads = 1
        /// How long a snapshot that was refused for a reason that may pass is left alone.
        package var retryMicroseconds: Int64 = 5_000_000
        /// The simulation's alone.
        package var variant = SnapshotVariant.sound

        package init() {}
    }

    private let region: Region
    private let place: SnapshotPlace
    private let source: any SnapshotSource
    private let configuration: Configuration
    private let stopping: StopSignal
    private let clock: any WallClock
    private let log: Log
    private let loader: SnapshotLoader
    private var lastInstall: Int64
    private var left: (name: SnapshotName, until: Int64)?
    /// One that was opened and checked, and holds events that the replica has not yet.
    private var opened: Opened?
    private var announced: (envelope: [UInt8], signed: SignedManifest)?
    private let warnings = LogLimiter(intervalMicroseconds: 5_000_000)
    package var figures: SnapshotFigures { region.snapshots }

    private var store: SnapshotStore { place.store }

    /// `nil` where the region has no source of snapshots.
    package init?(
        _ region: Region, configuration: Configuration = .init(), stopping: StopSignal = StopSignal(), log: Log,
        clock: any WallClock = SystemClock()
    ) {
        guard let place = region.configuration.snapshots, let source = place.source else { return nil }
        self.region = region
        self.place = place
        self.source = source
        self.configuration = configuration
        self.stopping = stopping
        self.log = log
        self.clock = clock
        loader = SnapshotLoader(store: place.store, variant: configuration.variant)
        lastInstall = clock.now
    }

    /// Does one thing that is due. Returns whether there was one.
    @discardableResult
    package func step() -> Bool {
        guard let replica = region.replica else { return false }
        do {
            if let wanted = try wanted(by: replica) { return try take(wanted, into: replica) }
            return try sealOwn(replica)
        } catch let refusal as SnapshotRefusal {
            refused(refusal, name: "what is on the disk")
        } catch is CancellationError {
            return false
        } catch {
            warnings.limited(now: clock.now) { log.error("snapshots", ["error": "\(error)", "alsoHeldBack": $0]) }
        }
        return false
    }

    // MARK: taking one

    /// The snapshot that should serve and does not.
    private func wanted(by replica: Replica) throws -> SignedManifest? {
        let now = replica.vectors.snapshot
        if let pinned = try store.pinnedName {
            guard pinned.lineage == replica.lineage, pinned.number != now else { return nil }
            return try store.load(pinned)
        }
        // Newer ones would come again and again to a region that is behind.
        if let opened, opened.replica === replica, opened.signed.manifest.number > now { return opened.signed }
        guard let envelope = try source.latest() else {
            // After an unpin, what was fetched last is newer than what was pinned.
            guard let current = try store.current, current.manifest.lineage == replica.lineage,
                current.manifest.number > now
            else { return nil }
            return current
        }
        let signed: SignedManifest
        do {
            signed = try read(envelope)
        } catch {
            refusedOnce(
                error, SnapshotName(lineage: replica.lineage, number: UInt64(bitPattern: Int64(envelope.hashValue))))
            return nil
        }
        // A sealer that follows another log than this region: its time has not come, or has gone.
        if signed.manifest.lineage != replica.lineage, region.isFollowing(signed.manifest.lineage) { return nil }
        guard signed.manifest.lineage != replica.lineage || signed.manifest.number > now else { return nil }
        if let left, left.name == signed.name, clock.now < left.until { return nil }
        return signed
    }

    /// The same envelope is verified and read once, however often it is looked at.
    private func read(_ envelope: [UInt8]) throws(SnapshotRefusal) -> SignedManifest {
        if let announced, announced.envelope == envelope { return announced.signed }
        let signed = try SignedManifest(decoding: envelope, trusting: place.keys)
        announced = (envelope, signed)
        return signed
    }

    private func take(_ signed: SignedManifest, into replica: Replica) throws -> Bool {
        do {
            let opened = try open(signed, for: replica)
            // A row whose segment is here before its event is would be found and could not be shown.
            guard configuration.variant == .installsEarly || replica.hasReached(signed.manifest) else { return false }
            self.opened = nil
            try store.publish(signed)
            try loader.install(opened.parts, of: signed.manifest, into: replica)
            try store.sweep(keep: configuration.keep)
            lastInstall = clock.now
            left = nil
            figures.didInstall()
            log.info(
                "snapshot in place",
                [
                    "snapshot": signed.name, "segments": signed.manifest.segments.count,
                    "bytesFetched": opened.bytesFetched, "rows": replica.vectors.rows,
                ])
            return true
        } catch let refusal as SnapshotRefusal {
            opened = nil
            refusedOnce(refusal, signed.name)
            return false
        }
    }

    private struct Opened {
        var signed: SignedManifest
        var parts: [[ReplicaVectors.Part]]
        var bytesFetched: Int
        var replica: Replica
    }

    private func open(_ signed: SignedManifest, for replica: Replica) throws -> Opened {
        if let opened, opened.signed.name == signed.name, opened.replica === replica { return opened }
        opened = nil
        try SnapshotLoader.terms(for: replica, model: region.model).check(signed.manifest)
        let outcome = try SnapshotFetch(store: store, source: source, limits: place.limits).fetch(
            signed, parts: .segments, until: stopping)
        figures.didFetch(bytes: outcome.bytesFetched)
        let parts = try loader.open(signed.manifest, for: replica.vectors)
        for (tenant, known) in replica.vectors.shipped.enumerated() {
            for part in parts[tenant] where !known.contains(where: { $0.file == part.file }) {
                try replica.rememberGone(in: part.live.segment, tenant: tenant)
            }
        }
        let made = Opened(
            signed: signed, parts: parts, bytesFetched: outcome.bytesFetched, replica: replica)
        opened = made
        return made
    }

    /// One snapshot is refused once, and looked at again later where that may help.
    private func refusedOnce(_ refusal: SnapshotRefusal, _ name: SnapshotName) {
        let mayPass = [.unavailable, .truncated, .hash, .size].contains(refusal.reason)
        guard left?.name != name || mayPass else { return }
        left = (name, mayPass ? clock.now + configuration.retryMicroseconds : .max)
        refused(refusal, name: "\(name)")
    }

    private func refused(_ refusal: SnapshotRefusal, name: String) {
        figures.refused(refusal, name: name)
        warnings.limited(now: clock.now) {
            log.warning(
                "a snapshot was refused",
                ["snapshot": name, "reason": refusal.reason.rawValue, "detail": refusal.detail, "alsoHeldBack": $0])
        }
    }

    // MARK: sealing here

    private func sealOwn(_ replica: Replica) throws -> Bool {
        guard clock.now - lastInstall >= configuration.ownAfterMicroseconds else { return false }
        let vectors = replica.vectors
        for tenant in vectors.pipeline.tenants.indices {
            let own = vectors.own[tenant]
            let merge = MergePlan().next(
                own.map { ($0.live.segment.count, $0.live.deadCount) }, sealRows: configuration.ownRows)
            let contents = vectors.collection(tenant).tail.contents
            guard !merge.isEmpty || vectors.collection(tenant).tail.counts.rows >= configuration.ownRows else {
                continue
            }
            let path = "\(store.path)/own.unfinished"
            let work = SegmentWork(vectors, threads: configuration.threads)
            let rows =
                try merge.isEmpty
                ? work.seal(contents, path: path) : work.merge(merge.map { own[$0].live }, path: path)
            guard rows > 0 else { continue }
            // It stays open without a name: nothing of it is left after the process.
            let segment = try Segment(path: path, resident: false)
            try FileManager.default.removeItem(atPath: path)
            try vectors.install(
                own: segment, tenant: tenant, replacing: merge, deleted: { try replica.deletedRows($0) })
            figures.didSealHere()
            log.info("sealed here", ["tenant": vectors.pipeline.tenants[tenant], "rows": rows, "merged": merge.count])
            return true
        }
        return false
    }
}
