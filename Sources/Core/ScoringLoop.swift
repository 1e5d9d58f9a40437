import Changes
import Features
import Scoring
import Service
import Storage

/// The exactly-once scoring loop: one step takes one batch of one partition, scores it and hands it to the log.
///
/// Order of a batch: stage in memory → commit the log → apply. What is applied is committed; a crash anywhere leaves a
/// view behind the log, and `assigned` replays the rest. While the log writes one batch the next is assembled on top of
/// it; its own commit begins only when the first is acknowledged, and if the first is aborted, both are taken back.
/// Signals, and the thread that calls `step`, live outside.
package final class ScoringLoop {
    package enum Outcome: Equatable, Sendable {
        case idle
        case assigned(partition: Int, replayed: UInt64)
        /// Scored and on its way to the log.
        case scored(partition: Int, events: Int)
        case aborted(partition: Int)
    }

    private let log: any EventLog
    private let view: View
    private let assembler: Assembler
    private let checkpoint: CoreCheckpoint
    private let clock: any WallClock
    package let figures: CoreFigures
    private let lane: CommitLane
    private var next: Flight
    private var spare: Flight
    private var underWay: Flight?
    /// What the log has, and this state too: of our own partitions, and of the others as far as they are followed.
    private var committed: [AppliedPosition?]
    private var isOurs: [Bool]
    /// Whether a partition was read to its end since the start. Until then the view's tiles may be newer than its
    /// frontier, so that no event may be scored on them.
    private var isCaughtUp: [Bool]
    /// Partitions that are ours, and wait until all are caught up.
    private var catchingUp: [Int] = []
    private var nextFollow: Int64 = 0
    /// How often the other cores' partitions are followed, microseconds: their shared tiles are as old as this.
    private static let followMicroseconds: Int64 = 20_000
    /// The same, as if what is under way were committed.
    private var ahead: [AppliedPosition?]
    private let variant: ProtocolVariant
    private let changeBytesMax: Int
    /// How many events a batch may have, so that it need not give any back.
    private var eventsMax: Int

    /// `commitsBeside`: large batches are committed on a thread beside the one that calls `step`. `variant` is the
    /// simulation's alone.
    package init(
        log: any EventLog, view: View, pipeline: Pipeline, model: ScoringModel?, figures: CoreFigures,
        clock: any WallClock = SystemClock(), eventsMax: Int = 2000, compression: Compression = .lz4,
        commitsBeside: Bool = false, variant: ProtocolVariant = .sound, changeBytesMax: Int = ChangeBatch.bodyBytesAimed
    ) throws {
        self.log = log
        self.eventsMax = eventsMax
        self.changeBytesMax = changeBytesMax
        self.variant = variant
        self.view = view
        self.clock = clock
        self.figures = figures
        let state = FeatureState(pipeline, partitions: log.partitions)
        assembler = Assembler(pipeline, model: model, state: state, eventsMax: eventsMax)
        checkpoint = CoreCheckpoint(view, assembler: assembler)
        next = Flight(eventsMax: eventsMax, compression: compression, lineage: log.lineage)
        spare = Flight(eventsMax: eventsMax, compression: compression, lineage: log.lineage)
        isOurs = Array(repeating: false, count: log.partitions)
        isCaughtUp = isOurs
        lane = CommitLane(log, clock: clock, hasThread: commitsBeside)
        try checkpoint.restore(lineage: log.lineage)
        committed = (0..<log.partitions).map { [checkpoint] in checkpoint.position(of: $0) }
        ahead = committed
    }

    deinit { lane.end() }

    /// Takes one thing and does it. Blocks in the log's `next` for at most `waitMicroseconds`, and where the log is
    /// slower than the scoring, for the batch under way.
    package func step(waitMicroseconds: Int = 50_000) throws -> Outcome {
        if !catchingUp.isEmpty { try catchUp() }
        next.batch.limit = eventsMax
        switch try log.next(into: next.batch, waitMicroseconds: waitMicroseconds) {
        case .idle:
            if let aborted = try settle() { return .aborted(partition: aborted) }
            // Whoever waits for partitions is ready when they come.
            if catchingUp.isEmpty, isCaughtUp.contains(false) { try catchUp() }
            try proceed()
            return .idle
        case .assigned(let partition):
            // What is aborted now is taken again by its own partition.
            _ = try settle()
            return try assign(partition)
        case .revoked(let partition):
            _ = try settle()
            for index in isOurs.indices where partition == nil || partition == index { isOurs[index] = false }
            catchingUp.removeAll { !isOurs[$0] }
            return .idle
        case .events(let partition):
            let read = next.batch.endOffset
            try stage(partition)
            let dropped = next
            if let aborted = try settle() {
                if isOurs[partition] { try log.seek(partition: partition, to: committed[partition]?.endOffset ?? 0) }
                return .aborted(partition: aborted)
            }
            if dropped.batch.endOffset < read { try log.seek(partition: partition, to: dropped.batch.endOffset) }
            submit()
            try proceed()
            return .scored(partition: partition, events: dropped.batch.count)
        }
    }

    /// Replays what the log has beyond this state, then goes on where the last batch ended.
    private func assign(_ partition: Int) throws -> Outcome {
        let end = log.changelogEnd(of: partition) ?? .max
        // What was followed is at hand.
        var replayed = try unsafe replay(partition, to: end) {
            try unsafe log.follow(partition: partition, after: $0, $1)
        }
        if (committed[partition]?.seq ?? 0) < end {
            replayed += try unsafe replay(partition) { try unsafe log.changelog(of: partition, after: $0, $1) }
        }
        isOurs[partition] = true
        isCaughtUp[partition] = true
        catchingUp.append(partition)
        try catchUp()
        return .assigned(partition: partition, replayed: replayed)
    }

    /// Reads the other partitions to their ends, then begins with those that were assigned. A batch that this view's tiles
    /// know may not be readable yet, where its transaction's marker is late: until it is, nothing is scored.
    private func catchUp() throws {
        for other in 0..<log.partitions where !isCaughtUp[other] {
            _ = try unsafe replay(other) { try unsafe log.changelog(of: other, after: $0, $1) }
            isCaughtUp[other] = (committed[other]?.seq ?? 0) >= checkpoint.reach(of: other)
        }
        guard !isCaughtUp.contains(false) else { return }
        for partition in catchingUp { try log.seek(partition: partition, to: committed[partition]?.endOffset ?? 0) }
        catchingUp = []
    }

    /// Moves on in the partitions of other cores, whose shared tiles our events need: as a warm standby would, so that a
    /// takeover has little to replay. Only between batches, with nothing under way.
    private func follow() throws {
        guard isOurs.contains(false), clock.now >= nextFollow else { return }
        nextFollow = clock.now + Self.followMicroseconds
        _ = try settle()
        for partition in 0..<log.partitions where !isOurs[partition] {
            _ = try unsafe replay(partition) { try unsafe log.follow(partition: partition, after: $0, $1) }
        }
    }

    private func replay(
        _ partition: Int, to end: UInt64 = .max,
        _ read: (_ after: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool) throws -> Void
    ) throws -> UInt64 {
        var position = committed[partition] ?? AppliedPosition(lineage: log.lineage)
        let before = position.seq
        let seen = assembler.seenIds(of: partition)
        // What was read before an error is read: the next call goes on behind it.
        defer {
            committed[partition] = position
            ahead[partition] = position
        }
        try unsafe read(before) { seq, encoded in
            guard seq <= end else { return false }
            let changes = try unsafe ChangeBatch(decoding: encoded)
            var unreadable = 0
            changes.forEachChange { change in
                if change.kind == .event {
                    guard variant != .duplicateNotDropped else { return }
                    let time = unsafe EventRecord(change.value)?.ingestTime ?? changes.header.commitTime
                    _ = seen.insert(unsafe assembler.identity(ofEventKey: change.key), time: time)
                } else if !assembler.state.apply(change, partition: partition) {
                    unreadable += 1
                }
            }
            guard unreadable == 0 else { throw ForeignTiles(partition: partition, seq: changes.header.seq) }
            seen.commit(seen.seal())
            position = position.advanced(by: changes)
            return true
        }
        return position.seq - before
    }

    /// Assembles the batch that was read, on top of the one under way.
    private func stage(_ partition: Int) throws {
        guard var position = ahead[partition] else { preconditionFailure("events of a partition that is not ours") }
        next.started = clock.now
        next.begin()
        next.tally = assembler.assemble(next.batch, deadLetters: &next.deadLetters, bytesMax: changeBytesMax)
        fit(next.batch, bytes: assembler.stagedBytes)
        position.seq += 1
        position.endOffset = next.batch.endOffset
        position.watermark = max(position.watermark, next.tally.latestEventTime)
        // The frontier that this batch read: every other partition as far as this process has it.
        next.writer.begin(
            frontier: ahead.enumerated().compactMap { index, other in
                index == partition ? nil : other.map { PartitionPosition(partition: UInt32(index), seq: $0.seq) }
            })
        unsafe assembler.stage(
            next.batch, seq: position.seq, into: &next.writer, scores: &next.scores, flagged: &next.flagged
        ) {
            entity, line in
            unsafe next.entities.append(entity)
            next.scoreEnds.append(ScoreEnds(line: UInt32(line), entity: UInt32(next.entities.count)))
        }
        next.staged = clock.now
        position.commitTime = next.staged
        next.seen = assembler.seal(partition: partition)
        next.header = ChangeBatchHeader(
            lineage: log.lineage, partition: UInt32(partition), seq: position.seq, firstOffset: next.batch.firstOffset,
            endOffset: next.batch.endOffset, commitTime: next.staged, watermark: position.watermark,
            schema: assembler.pipeline.schema, scored: next.tally.scored, duplicates: next.tally.duplicates,
            deadLetters: next.tally.deadLetters, gaps: next.batch.gaps)
        next.position = position
    }

    /// The next batches are as large as changes of this one's size allow: giving events back costs a read.
    private func fit(_ batch: EventBatch, bytes: Int) {
        if bytes > changeBytesMax / 4 * 3 {
            eventsMax = max(1, batch.count * (changeBytesMax / 8 * 7) / bytes)
        } else {
            eventsMax += eventsMax / 8 + 1
        }
        eventsMax = min(eventsMax, batch.eventsMax)
    }

    private func submit() {
        let flight = next
        let partition = flight.batch.partition
        flight.position.digest = committed[partition]?.digest ?? 0
        ahead[partition] = flight.position
        assembler.advance()
        if variant == .appliesBeforeCommit {
            assembler.commit(partition: partition, flight.seen)
            committed[partition] = flight.position
        }
        underWay = flight
        next = spare
        spare = flight
        lane.begin(flight, beside: flight.batch.isLarge)
    }

    /// Waits for the batch under way and applies it. If the log does not have it, it and what was assembled on top of it
    /// are taken back, and its partition is returned.
    private func settle() throws -> Int? {
        guard let flight = underWay else { return nil }
        underWay = nil
        let partition = flight.batch.partition
        let outcome = try lane.finish()
        guard outcome == .committed else {
            assembler.rollback()
            if outcome == .lost { isOurs[partition] = false }
            ahead = committed
            guard outcome == .aborted else { return partition }
            try log.seek(partition: partition, to: flight.batch.firstOffset)
            return partition
        }
        if variant != .appliesBeforeCommit { assembler.commit(partition: partition, flight.seen) }
        committed[partition] = flight.position
        if ahead[partition]?.seq == flight.position.seq { ahead[partition] = flight.position }
        figures.record(flight, state: assembler.state)
        return nil
    }

    /// Does a part of what brings the view up to date. Its end waits for the batch under way.
    private func proceed() throws {
        // An abort is nobody's news here: the log has been told to give the events again.
        if assembler.state.sweepWaits { _ = try settle() }
        try follow()
        try checkpoint.proceed(positions: committed, now: clock.now)
    }

    /// Puts all tiles on the disk before a planned stop, so that the next start replays nothing.
    package func close() throws {
        _ = try settle()
        try checkpoint.finish(positions: committed, now: clock.now)
    }
}

/// The log's tiles were written for other features than the pipeline has now.
struct ForeignTiles: Error, CustomStringConvertible {
    let partition: Int
    let seq: UInt64

    var description: String {
        "batch \(seq) of partition \(partition) holds tiles of other features than this pipeline's; "
            + "run with the pipeline file that wrote the log, or begin another --dir"
    }
}
