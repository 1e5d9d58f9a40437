import Foundation
import Replicate
import Scoring
import Service
import Storage
import Vectors

/// Makes a log's snapshots from a replica of its own: seals what came since the last one, merges segments in tiers, takes
/// a checkpoint of the tables, and publishes all of it as one signed manifest.
///
/// One thread calls `step`, which blocks while a segment is built: seconds for a tail, minutes for a large merge. The
/// replica goes on meanwhile. Order: segments and tables into the store, synced; the manifest; then the announcement. A
/// crash at any point leaves the old snapshot or the new one, and files without a manifest, which the next sweep removes.
package final class Sealer {
    package struct Configuration: Sendable {
        /// A tail of so many rows is sealed at once,
        package var rows = 50_000
        /// one of at least so many
        package var rowsMin = 2_000
        /// when the last snapshot is so old.
        package var intervalMicroseconds: Int64 = 60_000_000
        /// Snapshots that stay.
        package var keep = 4
        /// Segments of like size that become one.
        package var fanOut = 8
        /// Threads that build.
        package var threads = 1

        package init() {}
    }

    private let region: Region
    private let store: SnapshotStore
    private let key: SigningKey
    private let configuration: Configuration
    private let announce: @Sendable (SignedManifest) -> Void
    private let log: Log
    private let clock: any WallClock
    private let loader: SnapshotLoader
    private let work: String
    private var lastAt: Int64
    /// Tenants of whose rows some are neither in the tail nor sealed: the next seal reads the store.
    private var overflowed: Set<Int> = []
    /// Files of the table store whose hash is known: they never change.
    private var tables: [String: SnapshotFile] = [:]
    package var figures: SnapshotFigures { region.snapshots }

    package init(
        _ region: Region, store: SnapshotStore, key: SigningKey, configuration: Configuration = .init(), log: Log,
        clock: any WallClock = SystemClock(), announce: @escaping @Sendable (SignedManifest) -> Void
    ) throws {
        self.region = region
        self.store = store
        self.key = key
        self.configuration = configuration
        self.log = log
        self.clock = clock
        self.announce = announce
        loader = SnapshotLoader(store: store)
        work = "\(store.path)/sealing"
        lastAt = clock.now
        // What a crash left.
        if FileManager.default.fileExists(atPath: work) { try FileManager.default.removeItem(atPath: work) }
        try FileManager.default.createDirectory(atPath: work, withIntermediateDirectories: true)
        if let current = try store.current {
            tables = Dictionary(
                current.manifest.tables.map { ($0.name, $0.file) }, uniquingKeysWith: { first, _ in first })
            announce(current)
        }
    }

    /// Publishes a snapshot when one is due. Returns whether it did.
    @discardableResult
    package func step() throws -> Bool {
        guard let replica = region.replica, region.status.hasView else { return false }
        let current = try store.current.flatMap { $0.manifest.lineage == replica.lineage ? $0 : nil }
        let merge = mergeDue(replica)
        guard merge != nil || isDue(replica, current) else { return false }
        try publish(replica, after: current, merge: merge)
        return true
    }

    private func isDue(_ replica: Replica, _ current: SignedManifest?) -> Bool {
        let rows = replica.vectors.tailRows
        if rows >= configuration.rows { return true }
        let age = clock.now - lastAt
        if rows >= configuration.rowsMin, age >= configuration.intervalMicroseconds { return true }
        // Tables grow old, too: a new region should not have much to catch up with.
        let moved = zip(replica.frontier, current?.manifest.positions ?? []).contains { $0?.seq ?? 0 > $1.seq }
        return age >= 10 * configuration.intervalMicroseconds && (moved || current == nil)
    }

    private func mergeDue(_ replica: Replica) -> (tenant: Int, members: [Int])? {
        let plan = MergePlan(fanOut: configuration.fanOut)
        for (tenant, parts) in replica.vectors.shipped.enumerated() {
            let members = plan.next(
                parts.map { ($0.live.segment.count, $0.live.deadCount) }, sealRows: configuration.rows)
            if !members.isEmpty { return (tenant, members) }
        }
        return nil
    }

    // MARK: one snapshot

    private func publish(
        _ replica: Replica, after current: SignedManifest?, merge: (tenant: Int, members: [Int])?
    ) throws {
        let began = clock.now
        let vectors = replica.vectors
        let names = vectors.pipeline.tenants
        // Positions and tails of one moment, between two batches.
        let (frontier, tails) = replica.betweenBatches { frontier in
            (frontier, names.indices.map { vectors.collection($0).tail }.map { ($0.contents, $0.counts.evicted, $0) })
        }
        var segments: [[SnapshotSegment]] = names.map { name in
            current?.manifest.segments.filter { $0.tenant == name } ?? []
        }
        var positions = current?.manifest.positions ?? []
        var sealed = (rows: 0, bytes: 0)
        var mergedBytes = 0
        if let merge {
            // A merge keeps the frontier of the snapshot before: it makes of segments a segment, and adds nothing.
            let parts = vectors.shipped[merge.tenant]
            let files = Set(merge.members.map { parts[$0].file })
            let made = try seal {
                try SegmentWork(vectors, threads: configuration.threads).merge(
                    merge.members.map { parts[$0].live }, path: $0)
            }
            segments[merge.tenant].removeAll { files.contains($0.file.sha256) }
            if let made {
                segments[merge.tenant].insert(made.described(tenant: names[merge.tenant]), at: 0)
                mergedBytes = made.file.bytes
            }
        } else {
            positions = frontier.map { $0 ?? AppliedPosition(lineage: replica.lineage) }
            let end = ReplicaVectors.Sealed(offsets: positions.map(\.endOffset))
            for (tenant, (contents, evicted, _)) in tails.enumerated() where vectors.dimensions > 0 {
                let work = SegmentWork(vectors, threads: configuration.threads)
                let made = try seal { path in
                    // A tail that had to let rows go: the store has them all.
                    try evicted == 0 && !overflowed.contains(tenant) && !replica.cutTails.contains(tenant)
                        ? work.seal(contents, path: path)
                        : work.seal(unsealed: replica, tenant: tenant, to: end, path: path)
                }
                guard let made else { continue }
                segments[tenant].append(made.described(tenant: names[tenant]))
                sealed.rows += made.rows
                sealed.bytes += made.file.bytes
            }
        }
        let (tables, tableBytes) = try checkpoint(replica, carrying: merge == nil ? nil : current)
        let number = current.map { $0.manifest.number + 1 } ?? firstNumber(of: replica)
        let manifest = SnapshotManifest(
            lineage: replica.lineage, number: number, createdAt: clock.now, pipeline: vectors.pipeline.name,
            schema: vectors.pipeline.schema, model: region.model?.identity ?? 0, dimensions: vectors.dimensions,
            metric: vectors.pipeline.embedding.metric.rawValue, positions: positions,
            segments: segments.flatMap { $0 }, tables: tables)
        let signed = try SignedManifest(manifest, by: key)
        try store.publish(signed)
        announce(signed)
        try loader.install(loader.open(manifest, for: vectors), of: manifest, into: replica)
        if merge == nil {
            overflowed = []
            replica.cutTails = []
        }
        // Rows that the old tail let go meanwhile are in no tail now.
        for (tenant, (_, evicted, tail)) in tails.enumerated() where tail.counts.evicted > (merge == nil ? evicted : 0)
        {
            overflowed.insert(tenant)
        }
        try store.sweep(keep: configuration.keep)
        if merge == nil { lastAt = began }
        figures.didPublish(rows: sealed.rows, sealed: sealed.bytes, merged: mergedBytes, tables: tableBytes)
        log.info(
            "snapshot published",
            [
                "snapshot": signed.name, "segments": manifest.segments.count, "rowsSealed": sealed.rows,
                "merged": merge?.members.count ?? 0, "bytesNew": sealed.bytes + mergedBytes,
                "tableBytesNew": tableBytes, "milliseconds": (clock.now - began) / 1000,
            ])
    }

    /// Regions take higher numbers than they have. A sealer that has lost its folder does not know which they have: of a log
    /// that is not new it begins with the time in seconds, which is more than any count.
    private func firstNumber(of replica: Replica) -> UInt64 {
        let batches = replica.frontier.reduce(0) { $0 + ($1?.seq ?? 0) }
        return batches < Self.newLogBatches ? 1 : UInt64(clock.now / 1_000_000)
    }

    private static let newLogBatches = 50_000

    private struct Made {
        var file: SnapshotFile
        var rows: Int
        var recall: Float

        func described(tenant: String) -> SnapshotSegment {
            SnapshotSegment(tenant: tenant, file: file, rows: rows, recall: recall)
        }
    }

    /// Builds a segment, measures it, and takes it into the store; `nil` where there were no rows.
    private func seal(_ build: (_ path: String) throws -> Int) throws -> Made? {
        let path = "\(work)/segment"
        let rows = try build(path)
        guard rows > 0 else { return nil }
        let recall: Float
        do {
            let segment = try Segment(path: path, resident: false)
            recall = SnapshotLoader.recall(of: segment)
            guard recall >= loader.recallMin else {
                throw SnapshotRefusal(.recall, "a segment just sealed finds \(recall) of the true neighbours")
            }
        }
        return try Made(file: store.add(movingFileAt: path), rows: rows, recall: recall)
    }

    /// The table store's files at this moment, in the snapshot store. A merge of segments takes those of the snapshot
    /// before: nothing in them is needed for it.
    private func checkpoint(
        _ replica: Replica, carrying current: SignedManifest?
    ) throws -> ([SnapshotTable], newBytes: Int) {
        if let current { return (current.manifest.tables, 0) }
        let folder = "\(work)/tables"
        if FileManager.default.fileExists(atPath: folder) { try FileManager.default.removeItem(atPath: folder) }
        try replica.view.store.checkpoint(to: folder)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        var new = 0
        var found: [SnapshotTable] = []
        for name in try FileManager.default.contentsOfDirectory(atPath: folder).sorted() {
            let path = "\(folder)/\(name)"
            // The same file under another name: it never changes, and need not be read again.
            if name.hasSuffix(".sst"), let known = tables[name], isSame(path, store.path(of: known)) {
                found.append(SnapshotTable(name: name, file: known))
                continue
            }
            let file = try store.add(linkingFileAt: path)
            new += file.bytes
            found.append(SnapshotTable(name: name, file: file))
        }
        tables = Dictionary(found.map { ($0.name, $0.file) }, uniquingKeysWith: { first, _ in first })
        return (found, new)
    }

    private func isSame(_ one: String, _ other: String) -> Bool {
        func inode(_ path: String) -> UInt64? {
            (try? FileManager.default.attributesOfItem(atPath: path))?[.systemFileNumber] as? UInt64
        }
        guard let first = inode(one) else { return false }
        return first == inode(other)
    }
}
