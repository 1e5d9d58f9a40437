import Foundation
import Replicate
import Service
internal import Synchronization

/// Where a region's snapshots lie, and where they come from.
package struct SnapshotPlace: Sendable {
    package var store: SnapshotStore
    /// `nil`: only what the store holds is loaded, at the start.
    package var source: (any SnapshotSource)?
    package var keys: TrustedKeys
    package var limits = SnapshotFetch.Limits()
    /// A log of fewer batches is read from the bus as fast as a snapshot would come.
    package var bootstrapBatchesMin: UInt64 = 2000
    /// Runs a new replica's fetch beside the applier; `nil`: on a thread of its own.
    package var beside: (@Sendable (_ body: @escaping @Sendable () -> Void) -> Void)?

    package init(store: SnapshotStore, source: (any SnapshotSource)?, keys: TrustedKeys) {
        self.store = store
        self.source = source
        self.keys = keys
    }
}

/// Makes a new replica's folder from a snapshot, on a thread of its own: the table store's files under their own names,
/// the vectors' segments in the snapshot store. A folder that is not finished does not have its name yet.
final class Bootstrap: Sendable {
    enum State: Sendable {
        case running
        case done
        case failed(SnapshotRefusal)
    }

    private let current = Mutex(State.running)
    private let thread = Mutex<RoleThread?>(nil)
    private let stopping = StopSignal()

    var state: State { current.withLock { $0 } }

    /// - Parameter folder: where the replica will be; nothing is there yet.
    init(
        _ signed: SignedManifest, from source: any SnapshotSource, at place: SnapshotPlace, into folder: String,
        figures: SnapshotFigures
    ) {
        let work: @Sendable () -> Void = { [self] in
            let outcome: State
            do {
                // A follower's sweep knows nothing of the tables.
                try place.store.sparing(signed.manifest) {
                    try fetch(signed, from: source, at: place, figures)
                    try build(signed.manifest, from: place.store, into: folder)
                    // Its segments serve at once; the tables' files stand in the replica's folder from now on.
                    try place.store.publish(signed)
                }
                outcome = .done
            } catch let refusal as SnapshotRefusal {
                outcome = .failed(refusal)
            } catch {
                outcome = .failed(SnapshotRefusal(.unavailable, "\(error)"))
            }
            figures.progress = nil
            current.withLock { $0 = outcome }
        }
        if let beside = place.beside {
            beside(work)
        } else {
            thread.withLock { $0 = RoleThread(name: "bootstrap", work) }
        }
    }

    /// Ends it; what was fetched stays for the next one.
    func stop() {
        stopping.stop()
        _ = thread.withLock { $0 }?.join(seconds: 10)
    }

    private func fetch(
        _ signed: SignedManifest, from source: any SnapshotSource, at place: SnapshotPlace,
        _ figures: SnapshotFigures
    ) throws {
        let began = Date()
        var first: Int?
        let outcome = try SnapshotFetch(store: place.store, source: source, limits: place.limits).fetch(
            signed, parts: .all, until: stopping
        ) { done, total in
            let start = first ?? done
            first = start
            let seconds = Date().timeIntervalSince(began)
            let rate = seconds > 0.2 ? Double(done - start) / seconds : 0
            figures.progress = .init(
                bytesDone: done, bytesTotal: total, secondsLeft: rate > 0 ? Double(total - done) / rate : nil)
        }
        figures.didFetch(bytes: outcome.bytesFetched)
    }

    private func build(_ manifest: SnapshotManifest, from store: SnapshotStore, into folder: String) throws {
        let files = FileManager.default
        let unfinished = folder + ".unfinished"
        if files.fileExists(atPath: unfinished) { try files.removeItem(atPath: unfinished) }
        try files.createDirectory(atPath: unfinished, withIntermediateDirectories: true)
        for table in manifest.tables {
            let source = store.path(of: table.file)
            let target = "\(unfinished)/\(table.name)"
            // Files that RocksDB never writes to again may share their bytes with the store; the others are ours alone.
            if table.name.hasSuffix(".sst") {
                do {
                    try files.linkItem(atPath: source, toPath: target)
                    continue
                } catch {}  // Another disk: a copy serves as well.
            }
            try files.copyItem(atPath: source, toPath: target)
        }
        try files.moveItem(atPath: unfinished, toPath: folder)
    }
}
