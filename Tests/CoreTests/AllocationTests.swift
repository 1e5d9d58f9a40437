import CAllocations
import Changes
import Core
import Features
import Foundation
import Scoring
import Testing

#if DEBUG
    private let isReleaseBuild = false
#else
    private let isReleaseBuild = true
#endif

/// The core's way of an event, from the log's bytes to the encoded batch: decode, windows, features, score, stage, encode.
///
/// A debug build allocates for generics that release specialises: `make test` runs this in a release build.
@Suite(.enabled(if: isReleaseBuild, "allocations are counted in a release build"))
struct AllocationTests {
    /// Card events of entities that are known after the first few batches; one in 500 is large enough to be flagged.
    static func event(_ id: Int) -> [UInt8] {
        let seconds = 1_750_000_000 + id
        let time = Date(timeIntervalSince1970: Double(seconds)).formatted(.iso8601)
        return Array(
            """
            {"transaction_id":"t\(id)","time":"\(time)","customer_id":"c\(id % 97)","terminal_id":"m\(id % 89)",\
            "amount":\(id % 500 == 250 ? 5000 : 10 + id % 50).\(id % 10)}
            """.utf8)
    }

    final class Way {
        let batch = EventBatch(eventsMax: 500)
        let assembler: Assembler
        var writer = ChangeBatchWriter()
        var scores = ByteWriter(capacity: 1 << 20)
        var letters = ByteWriter(capacity: 1 << 16)
        private var next = 0
        private(set) var flagged: UInt32 = 0

        init() throws {
            let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
                .deletingLastPathComponent().deletingLastPathComponent().path
            let pipeline = try Pipeline(path: folder + "/pipelines/cards.yaml")
            let model = try ScoringModel(path: try #require(pipeline.model), pipeline: pipeline)
            assembler = Assembler(
                pipeline, model: model, state: FeatureState(pipeline, partitions: 4), eventsMax: 500)
        }

        func fill() {
            batch.begin(partition: next / 500 % 4, firstOffset: UInt64(next))
            for id in next..<next + 500 {
                AllocationTests.event(id).withUnsafeBytes {
                    batch.append($0, appendTime: 1_750_000_000_000_000 + Int64(id) * 1_000_000)
                }
            }
            next += 500
        }

        /// What the scoring loop does with a batch between the log's read and its write.
        func pass(lineage: Lineage) {
            scores.removeAll()
            letters.removeAll()
            let tally = assembler.assemble(batch, deadLetters: &letters)
            writer.begin(frontier: EmptyCollection())
            flagged = 0
            assembler.stage(batch, seq: 1, into: &writer, scores: &scores, flagged: &flagged)
            let header = ChangeBatchHeader(
                lineage: lineage, partition: 0, seq: 1, firstOffset: batch.firstOffset, endOffset: batch.endOffset,
                commitTime: 0, watermark: 0, schema: 1, scored: tally.scored, duplicates: tally.duplicates,
                deadLetters: tally.deadLetters)
            writer.encode(header, digestAfter: 0) { _, _ in }
            assembler.commit(partition: batch.partition)
        }
    }

    @Test func anEventAllocatesNothing() throws {
        let way = try Way()
        let lineage = Lineage(high: 1, low: 2)
        // The buffers grow to their size, and the entities are met.
        for _ in 0..<12 {
            way.fill()
            way.pass(lineage: lineage)
        }
        var worst = 0
        var flagged: UInt32 = 0
        for _ in 0..<8 {
            way.fill()
            let before = allocations_of_thread()
            way.pass(lineage: lineage)
            let made = Int(allocations_of_thread() - before)
            // The reasons of a flagged event are found and carried in arrays: ten allocations.
            worst = max(worst, made - Int(way.flagged) * 10)
            flagged += way.flagged
        }
        #expect(worst <= 0, "a batch of 500 made \(worst) beside its reasons")
        #expect(flagged > 0 && flagged < 80, "\(flagged) of 4,000 events were flagged")
    }
}
