import Changes
import Core
import Features
import Scoring

/// Makes features and scores again from a log's input, batch by batch in the order that the recorded frontiers give, and
/// compares them bit by bit with what was committed.
struct Recomputation {
    private let reader: any LogReader
    private let assembler: Assembler
    private let batch = EventBatch()

    init(reader: any LogReader, pipeline: Pipeline, model: ScoringModel?) {
        self.reader = reader
        assembler = Assembler(
            pipeline, model: model, state: FeatureState(pipeline, partitions: reader.partitions),
            eventsMax: batch.eventsMax)
    }

    mutating func run() throws -> (rows: Int, different: Int) {
        var rows = 0
        var different = 0
        for place in try CommittedBatch.inOrder(reader) {
            let (count, bad) = try recompute(place)
            rows += count
            different += bad
        }
        return (rows, different)
    }

    private func recompute(_ place: CommittedBatch) throws -> (rows: Int, different: Int) {
        guard let committed = try place.changes(reader) else { return (0, 0) }
        batch.begin(partition: place.partition, firstOffset: committed.header.firstOffset)
        try unsafe reader.input(of: place.partition, from: committed.header.firstOffset) { offset, event, time in
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
        assembler.commit(partition: place.partition, now: committed.header.commitTime)
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
