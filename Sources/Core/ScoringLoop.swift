import Changes
import Features
import Scoring
import Service
import Storage

/// The exactly-once scoring loop: one step takes one batch of one partition, scores it, commits it, applies it.
///
/// Order of a step: stage in memory → commit the log → apply. What is applied is committed; a crash anywhere leaves a
/// view behind the log, and `assigned` replays the rest. Threads and signals live outside.
package final class ScoringLoop {
    package enum Outcome: Equatable, Sendable {
        case idle
        case assigned(partition: Int, replayed: UInt64)
        case scored(partition: Int, events: Int)
        case aborted(partition: Int)
    }

    private let log: any EventLog
    private let view: View
    private let assembler: Assembler
    private let checkpoint: CoreCheckpoint
    private let clock: any WallClock
    package let figures: CoreFigures
    private let batch: EventBatch
    private var writer: ChangeBatchWriter
    private var scores = ByteWriter(capacity: 1 << 20)
    private var deadLetters = ByteWriter(capacity: 1 << 16)
    private var positions: [AppliedPosition?]
    private var frontier: [PartitionPosition] = []

    package init(
        log: any EventLog, view: View, pipeline: Pipeline, model: ScoringModel?, figures: CoreFigures,
        clock: any WallClock = SystemClock(), eventsMax: Int = 2000, compression: Compression = .lz4
    ) throws {
        self.log = log
        self.view = view
        self.clock = clock
        self.figures = figures
        batch = EventBatch(eventsMax: eventsMax)
        let state = FeatureState(pipeline, partitions: log.partitions)
        assembler = Assembler(pipeline, model: model, state: state, eventsMax: eventsMax)
        checkpoint = CoreCheckpoint(view, assembler: assembler)
        writer = ChangeBatchWriter(compression: compression)
        positions = Array(repeating: nil, count: log.partitions)
        try checkpoint.restore(lineage: log.lineage)
    }

    /// Takes one thing and does it. Blocks in the log's `next` for at most `waitMicroseconds`.
    package func step(waitMicroseconds: Int = 50_000) throws -> Outcome {
        switch try log.next(into: batch, waitMicroseconds: waitMicroseconds) {
        case .idle:
            try checkpoint.proceed(positions: positions, now: clock.now)
            return .idle
        case .assigned(let partition): return try assign(partition)
        case .revoked(let partition):
            positions[partition] = nil
            return .idle
        case .events(let partition):
            let outcome = try score(partition)
            try checkpoint.proceed(positions: positions, now: clock.now)
            return outcome
        }
    }

    /// Replays what the log has beyond the view, then goes on where the last batch ended.
    private func assign(_ partition: Int) throws -> Outcome {
        var position = checkpoint.position(of: partition) ?? AppliedPosition(lineage: log.lineage)
        let before = position.seq
        let seen = assembler.seenIds(of: partition)
        try unsafe log.changelog(of: partition, after: position.seq) { _, encoded in
            let changes = try unsafe ChangeBatch(decoding: encoded)
            var unreadable = 0
            changes.forEachChange { change in
                if change.kind == .event {
                    let time = unsafe EventRecord(change.value)?.ingestTime ?? changes.header.commitTime
                    _ = seen.insert(unsafe assembler.identity(ofEventKey: change.key), time: time)
                } else if !assembler.state.apply(change, partition: partition) {
                    unreadable += 1
                }
            }
            guard unreadable == 0 else { throw ForeignTiles(partition: partition, seq: changes.header.seq) }
            seen.commit(now: changes.header.commitTime)
            position = position.advanced(by: changes)
            return true
        }
        positions[partition] = position
        frontier = positions.enumerated().compactMap { index, position in
            position.map { PartitionPosition(partition: UInt32(index), seq: $0.seq) }
        }
        try log.seek(partition: partition, to: position.endOffset)
        return .assigned(partition: partition, replayed: position.seq - before)
    }

    private func score(_ partition: Int) throws -> Outcome {
        guard var position = positions[partition] else { preconditionFailure("events of a partition that is not ours") }
        let started = clock.now
        scores.removeAll()
        deadLetters.removeAll()
        let tally = assembler.assemble(batch, deadLetters: &deadLetters)
        let seq = position.seq + 1
        // The frontier that this batch read: every other partition as this process has committed it.
        writer.begin(frontier: frontier.lazy.filter { $0.partition != UInt32(partition) }.map { $0 })
        var flagged: UInt32 = 0
        assembler.stage(batch, seq: seq, into: &writer, scores: &scores, flagged: &flagged)
        let staged = clock.now
        let header = ChangeBatchHeader(
            lineage: log.lineage, partition: UInt32(partition), seq: seq, firstOffset: batch.firstOffset,
            endOffset: batch.endOffset, commitTime: staged, watermark: max(position.watermark, tally.latestEventTime),
            schema: assembler.pipeline.schema, scored: tally.scored, duplicates: tally.duplicates,
            deadLetters: tally.deadLetters)
        let (outcome, digest) = try unsafe writer.encode(header, digestAfter: position.digest) { encoded, digest in
            let commit = unsafe StagedCommit(
                partition: partition, seq: seq, endOffset: batch.endOffset, changes: encoded, scores: scores.bytes,
                deadLetters: deadLetters.bytes)
            return (try log.commit(commit), digest)
        }
        guard outcome == .committed else {
            assembler.rollback(partition: partition)
            try log.seek(partition: partition, to: batch.firstOffset)
            return .aborted(partition: partition)
        }
        assembler.commit(partition: partition, now: staged)
        position.seq = seq
        position.digest = digest
        position.endOffset = batch.endOffset
        position.commitTime = staged
        position.watermark = header.watermark
        positions[partition] = position
        frontier[frontier.firstIndex { $0.partition == UInt32(partition) } ?? 0].seq = seq
        figures.record(
            batch, tally: tally, flagged: flagged, position: position, started: started, staged: staged,
            committed: clock.now, state: assembler.state)
        return .scored(partition: partition, events: batch.count)
    }

    /// Puts all tiles on the disk before a planned stop, so that the next start replays nothing.
    package func close() throws { try checkpoint.finish(positions: positions, now: clock.now) }
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
