import Changes
import Core
import Features
import Scoring

/// Makes features and scores again from a log's input, and compares them bit by bit with what was committed.
///
/// Partition by partition: a batch saw its own partition up to itself, and of each other one the shared tiles up to the
/// frontier that it recorded, whichever core committed them.
struct Recomputation {
    private let reader: any LogReader
    private let pipeline: Pipeline
    private let model: ScoringModel?
    private let batch = EventBatch()
    /// Of each partition a run of encoded batches, and the first one's seq: they are read in order, a chunk at a time.
    private var chunks: [(first: UInt64, batches: [[UInt8]])] = []
    /// Each partition's last batch when the run began.
    private var ends: [UInt64] = []
    private static let chunkBatches = 256

    init(reader: any LogReader, pipeline: Pipeline, model: ScoringModel?) {
        self.reader = reader
        self.pipeline = pipeline
        self.model = model
    }

    mutating func run() throws -> (rows: Int, different: Int) {
        chunks = Array(repeating: (0, []), count: reader.partitions)
        ends = try (0..<reader.partitions).map { try reader.changelogEnd(of: $0) }
        var rows = 0
        var different = 0
        for partition in 0..<reader.partitions {
            let (count, bad) = try run(partition)
            rows += count
            different += bad
        }
        return (rows, different)
    }

    private mutating func run(_ partition: Int) throws -> (rows: Int, different: Int) {
        var rows = 0
        var different = 0
        var assembler = makeAssembler()
        var known = [UInt64](repeating: 0, count: reader.partitions)
        var seq: UInt64 = 0
        while seq < ends[partition] {
            seq += 1
            let committed = try changes(partition, seq)
            // A core that took the partition over may have been behind the one before it: then all begins again.
            if committed.frontier.contains(where: { known[Int($0.partition)] > $0.seq }) {
                assembler = makeAssembler()
                known = [UInt64](repeating: 0, count: reader.partitions)
                for earlier in 1..<max(1, seq) {
                    apply(try changes(partition, earlier), to: assembler, partition, sharedOnly: false)
                }
            }
            for position in committed.frontier {
                let other = Int(position.partition)
                guard position.seq <= ends[other] else { return (rows, different) }  // Committed since.
                while known[other] < position.seq {
                    known[other] += 1
                    apply(try changes(other, known[other]), to: assembler, other, sharedOnly: true)
                }
            }
            let (count, bad) = try recompute(committed, partition, assembler)
            rows += count
            different += bad
        }
        return (rows, different)
    }

    private func makeAssembler() -> Assembler {
        Assembler(
            pipeline, model: model, state: FeatureState(pipeline, partitions: reader.partitions),
            eventsMax: batch.eventsMax)
    }

    private mutating func changes(_ partition: Int, _ seq: UInt64) throws -> ChangeBatch {
        let chunk = chunks[partition]
        if seq < chunk.first || seq >= chunk.first + UInt64(chunk.batches.count) {
            var read: [[UInt8]] = []
            try unsafe reader.changelog(of: partition, after: seq - 1) { _, encoded in
                unsafe read.append(Array(encoded))
                return read.count < Self.chunkBatches
            }
            chunks[partition] = (seq, read)
        }
        guard !chunks[partition].batches.isEmpty else {
            throw EmbeddedLogError.corrupt("no batch \(seq) in partition \(partition)")
        }
        return try unsafe chunks[partition].batches[Int(seq - chunks[partition].first)].withUnsafeBytes {
            try unsafe ChangeBatch(decoding: $0)
        }
    }

    private func apply(_ changes: ChangeBatch, to assembler: Assembler, _ partition: Int, sharedOnly: Bool) {
        changes.forEachChange(sharedOnly: sharedOnly) { change in
            if change.kind == .event {
                let time = unsafe EventRecord(change.value)?.ingestTime ?? changes.header.commitTime
                _ = assembler.seenIds(of: partition).insert(
                    unsafe assembler.identity(ofEventKey: change.key), time: time)
            } else {
                _ = assembler.state.apply(change, partition: partition)
            }
        }
        guard !sharedOnly else { return }
        let seen = assembler.seenIds(of: partition)
        seen.commit(seen.seal())
    }

    private func recompute(
        _ committed: ChangeBatch, _ partition: Int, _ assembler: Assembler
    ) throws -> (rows: Int, different: Int) {
        batch.begin(partition: partition, firstOffset: committed.header.firstOffset)
        try unsafe reader.input(of: partition, from: committed.header.firstOffset) { offset, event, time in
            guard offset < committed.header.endOffset else { return false }
            unsafe batch.append(event, appendTime: time, offset: offset)
            return true
        }
        var letters = ByteWriter()
        let tally = assembler.assemble(batch, deadLetters: &letters)
        var made: [(row: [UInt32], score: UInt32)] = []
        unsafe assembler.forEachRow { _, _, _, _, row, score in
            unsafe made.append((row.map(\.bitPattern), score.bitPattern))
        }
        assembler.commit(partition: partition)
        var index = 0
        var different = tally.scored == committed.header.scored ? 0 : 1
        committed.forEachChange { change in
            guard change.kind == .event, let record = unsafe EventRecord(change.value), index < made.count else {
                return
            }
            let row = (0..<record.featureCount).map { record.feature($0).bitPattern }
            if row != made[index].row || record.score.bitPattern != made[index].score { different += 1 }
            index += 1
        }
        return (index, different)
    }
}
