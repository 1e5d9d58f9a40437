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
        // After a crash the replica may stand behind its own snapshot: what is published never goes back.
        guard current.map({ replica.hasReached($0.manifest) }) ?? true,
            replica.frontier.contains(where: { $0?.seq ?? 0 > 0 })
        else { return false }
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

    /// What a snapshot will hold of the vectors.
    private struct Draft {
        /// By tenant, the oldest first.
        var segments: [[SnapshotSegment]]
        /// By partition: they hold all rows below this input offset,
        var offsets: [UInt64]
        var rowsSealed = 0
        var bytesSealed = 0
        var bytesMerged = 0
        /// Nothing was left that could be sealed.
        var isWhole = false
    }

    /// A tail at one moment, and how many rows it had let go by then.
    private struct SeenTail {
        var tail: VectorTail
        var contents: TailContents
        var evicted: UInt64

        init(_ tail: VectorTail) {
            self.tail = tail
            contents = tail.contents
            evicted = tail.counts.evicted
        }
    }

    private func publish(
        _ replica: Replica, after current: SignedManifest?, merge: (tenant: Int, members: [Int])?
    ) throws {
        let began = clock.now
        let vectors = replica.vectors
        let names = vectors.pipeline.tenants
        // Positions and tails of one moment, between two batches.
        let (frontier, tails) = replica.betweenBatches { frontier in
            (frontier, names.indices.map { SeenTail(vectors.collection($0).tail) })
        }
        var draft = Draft(
            segments: names.map { name in current?.manifest.segments.filter { $0.tenant == name } ?? [] },
            offsets: current?.manifest.positions.map(\.endOffset) ?? [])
        if let merge {
            try add(merge, to: &draft, vectors)
        } else {
            try add(frontier, tails, to: &draft, replica)
        }
        // but those that were replaced or deleted while the segments were built: whoever has got so far knows of that.
        let positions = zip(replica.frontier, draft.offsets).map { reached, offset in
            var position = reached ?? AppliedPosition(lineage: replica.lineage)
            position.endOffset = offset
            return position
        }
        let (tables, tableBytes) = try checkpoint(replica, carrying: merge == nil ? nil : current)
        let number = try store.newestNumber(of: replica.lineage).map { $0 + 1 } ?? firstNumber(of: replica)
        let manifest = SnapshotManifest(
            lineage: replica.lineage, number: number, createdAt: clock.now, pipeline: vectors.pipeline.name,
            schema: vectors.pipeline.schema, model: region.model?.identity ?? 0, dimensions: vectors.dimensions,
            metric: vectors.pipeline.embedding.metric.rawValue, positions: positions,
            segments: draft.segments.flatMap { $0 }, tables: tables)
        let signed = try SignedManifest(manifest, by: key)
        try store.publish(signed)
        announce(signed)
        try loader.install(loader.open(manifest, for: vectors), of: manifest, into: replica)
        noteOverflow(replica, tails, isWhole: draft.isWhole)
        try store.sweep(keep: configuration.keep)
        if merge == nil { lastAt = began }
        figures.didPublish(
            rows: draft.rowsSealed, sealed: draft.bytesSealed, merged: draft.bytesMerged, tables: tableBytes)
        log.info(
            "snapshot published",
            [
                "snapshot": signed.name, "segments": manifest.segments.count, "rowsSealed": draft.rowsSealed,
                "merged": merge?.members.count ?? 0, "bytesNew": draft.bytesSealed + draft.bytesMerged,
                "tableBytesNew": tableBytes, "milliseconds": (clock.now - began) / 1000,
            ])
    }

    /// A merge makes of segments a segment, and adds no row.
    private func add(
        _ merge: (tenant: Int, members: [Int]), to draft: inout Draft, _ vectors: ReplicaVectors
    ) throws {
        let parts = vectors.shipped[merge.tenant]
        let files = Set(merge.members.map { parts[$0].file })
        let made = try seal {
            try SegmentWork(vectors, threads: configuration.threads).merge(
                merge.members.map { parts[$0].live }, path: $0)
        }
        draft.segments[merge.tenant].removeAll { files.contains($0.file.sha256) }
        guard let made else { return }
        draft.segments[merge.tenant].insert(
            made.described(tenant: vectors.pipeline.tenants[merge.tenant]), at: 0)
        draft.bytesMerged = made.file.bytes
    }

    /// Seals what is not sealed yet, at most so much at once: a sealer that has much to catch up with, or dies again and
    /// again, gets on by pieces.
    private func add(
        _ frontier: [AppliedPosition?], _ tails: [SeenTail], to draft: inout Draft, _ replica: Replica
    ) throws {
        let vectors = replica.vectors
        draft.offsets = frontier.map { $0?.endOffset ?? 0 }
        let waiting = tails.reduce(0) { $0 + $1.tail.counts.rows + Int($1.evicted) }
        let most = Self.pieceSeals * configuration.rows
        draft.isWhole = waiting <= most
        if !draft.isWhole {
            // Of each partition the same share.
            let share = Double(most) / Double(waiting)
            for (partition, begin) in vectors.sealed.starts(partitions: draft.offsets.count).enumerated() {
                let end = draft.offsets[partition]
                draft.offsets[partition] = begin + UInt64(Double(end - min(begin, end)) * share)
            }
        }
        guard vectors.dimensions > 0 else { return }
        let piece = ReplicaVectors.Sealed(offsets: draft.offsets)
        for (tenant, seen) in tails.enumerated() {
            let work = SegmentWork(vectors, threads: configuration.threads)
            // A tail that had to let rows go: the store has them all.
            let isCut = seen.evicted > 0 || overflowed.contains(tenant) || replica.cutTails.contains(tenant)
            let made = try seal { path in
                try isCut
                    ? work.seal(unsealed: replica, tenant: tenant, of: piece, path: path)
                    : work.seal(seen.contents, of: piece, path: path)
            }
            guard let made else { continue }
            draft.segments[tenant].append(made.described(tenant: vectors.pipeline.tenants[tenant]))
            draft.rowsSealed += made.rows
            draft.bytesSealed += made.file.bytes
        }
    }

    /// A segment of a tail has at most so many times the rows that make one due.
    private static let pieceSeals = 4

    /// Rows that the old tails let go are in no tail now.
    private func noteOverflow(_ replica: Replica, _ tails: [SeenTail], isWhole: Bool) {
        if isWhole {
            overflowed = []
            replica.cutTails = []
        }
        for (tenant, seen) in tails.enumerated() where seen.tail.counts.evicted > (isWhole ? seen.evicted : 0) {
            overflowed.insert(tenant)
        }
    }

    /// Regions take higher numbers than they have. A sealer that has lost its folder does not know which they have: it begins
    /// with the number of the log's batches, of which each snapshot so far had some of its own.
    private func firstNumber(of replica: Replica) -> UInt64 { replica.frontier.reduce(0) { $0 + ($1?.seq ?? 0) } }

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
