import Changes
import Core
import Features
import Testing

/// A batch is one record of the log and one message of the bus: what it becomes is bounded, not only what it is made of.
@Suite struct BatchSizeTests {
    /// Bytes of changes of each committed batch.
    private func sizes(_ core: TestCore) throws -> [Int] {
        var sizes: [Int] = []
        for partition in 0..<3 {
            try core.log.changelog(of: partition, after: 0) { _, encoded in
                var bytes = 0
                try ChangeBatch(decoding: encoded).forEachChange { change in
                    bytes += Change.headerBytes + change.key.count + change.value.count + change.vector.count
                }
                sizes.append(bytes)
                return true
            }
        }
        return sizes
    }

    @Test(arguments: [(false, 0), (true, 0), (false, 3), (true, 3)])
    func whatDoesNotFitBeginsTheNextBatch(_ commitsBeside: Bool, _ abortEvery: Int) throws {
        let core = try TestCore(commitsBeside: commitsBeside, changeBytesMax: 4096)
        core.faults.abortEvery = abortEvery
        var events = (0..<900).map { (text: core.event($0, customer: $0 % 7), customer: $0 % 7) }
        // Bad ones and duplicates at the edges of batches too.
        for at in stride(from: 5, to: 900, by: 11) { events.insert((text: "{\"bad\":\(at)}", customer: at), at: at) }
        for at in stride(from: 40, to: 900, by: 13) { events.insert(events[at - 3], at: at) }
        try core.append(events)
        try core.drain()
        let rows = try core.committed()
        #expect(rows.count == 900 && rows.values.allSatisfy { $0.count == 1 })
        #expect(try core.recomputed() == rows.mapValues { $0[0] })
        let sizes = try sizes(core)
        #expect(sizes.allSatisfy { $0 < 4096 + 600 }, "an event's changes beyond it: \(sizes.max() ?? 0)")
        #expect(sizes.contains { $0 > 2048 })
        // Those that had to give events back are the exception: the next are made as large as fits.
        let returned = core.faults.seeks - core.faults.aborted * (abortEvery > 0 ? 2 : 0) - 3
        #expect(core.faults.seeks > 3 && returned < sizes.count / 4, "\(core.faults.seeks) of \(sizes.count)")
    }

    /// A model's embeddings may be as long as those of events here: 2,000 of them are 12 MB, which the writer refuses by ending
    /// the process.
    @Test func longVectorsFit() throws {
        let dimension = Pipeline.dimensionMax
        let text = """
            pipeline: long
            event: { id: id, time: { path: t, unit: us } }
            entities: { customer: { path: customer } }
            features: [ { since_last: [customer] } ]
            embedding: { field: v, dimension: \(dimension), metric: cosine }
            """
        let pipeline = try Pipeline(text: text, file: "long.yaml")
        let batch = EventBatch(eventsMax: 2000)
        let vector = "[" + (0..<dimension).map { "\($0 % 10)" }.joined(separator: ",") + "]"
        let assembler = Assembler(pipeline, model: nil, state: FeatureState(pipeline, partitions: 1), eventsMax: 2000)
        batch.begin(partition: 0, firstOffset: 0)
        for id in 0..<320 {
            let event = "{\"id\":\"e\(id)\",\"t\":\(1_700_000_000_000_000 + id),\"customer\":\"c\",\"v\":\(vector)}"
            Array(event.utf8).withUnsafeBytes { batch.append($0, appendTime: 1_700_000_000_000_000) }
        }
        var letters = ByteWriter()
        let tally = assembler.assemble(batch, deadLetters: &letters, bytesMax: ChangeBatch.bodyBytesAimed)
        var writer = ChangeBatchWriter(compression: .none)
        writer.begin(frontier: EmptyCollection())
        var scores = ByteWriter()
        var flagged: UInt32 = 0
        assembler.stage(batch, seq: 1, into: &writer, scores: &scores, flagged: &flagged)
        #expect(tally.scored == UInt32(batch.count) && batch.count < 320)
        #expect(batch.endOffset == UInt64(batch.count))
        #expect((assembler.stagedBytes - 1024...assembler.stagedBytes).contains(writer.bodyBytes))
        #expect((ChangeBatch.bodyBytesAimed / 4 * 3..<ChangeBatch.encodedBytesMax).contains(writer.bodyBytes))
    }
}
