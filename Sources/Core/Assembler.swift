import Changes
import Features
import Scoring

/// Turns a batch of one partition's events into what its transaction writes: scores, changes, dead letters.
///
/// The one place where an event's features, score and record are made: the scoring loop, the recomputation of a log and
/// the training export all call it. Everything is staged: `commit` or `rollback` decides. Not thread-safe.
@safe package final class Assembler {
    package let pipeline: Pipeline
    package let model: ScoringModel?
    package let state: FeatureState
    /// One for each event under way: what a decoder hands out is valid until its next event.
    private let decoders: [EventDecoder]
    private var verdicts: [Verdict]
    private let scratch: ForestScratch?
    private let stride: Int
    private let rows: UnsafeMutablePointer<Float>
    private let ordered: UnsafeMutablePointer<Float>
    private let outputs: UnsafeMutablePointer<Float>
    private let embeddings: UnsafeMutablePointer<Float>
    /// Of a vector, wherever it comes from; 0 where there is none.
    private let dimension: Int
    private var seen: [SeenIds]
    private var scored: [Scored] = []
    private var texts = ByteWriter(capacity: 1 << 18)
    private var record = ByteWriter(capacity: 1 << 12)
    private let eventsMax: Int

    /// Decoding is so many events ahead of taking.
    private static let ahead = 2

    private struct Verdict {
        var refusal: EventRefusal?
        var tenant = 0
        /// What the event's id is known by.
        var identity = IdentityHash(low: 0, high: 0)
    }

    private struct Scored {
        var index: Int
        var time: Int64
        var tenant: Int
        var flags: EventRecord.Flags
        /// In `texts`: key (with tenant), entity, kept fields.
        var keyStart: Int
        var entityStart: Int
        var fieldsStart: Int
        var fieldsEnd: Int
        /// An event may come without the vector that its pipeline takes from events.
        var hasVector: Bool
    }

    /// What became of a batch's events, and the greatest event time that may move the watermark.
    package struct Tally: Equatable, Sendable {
        package var scored: UInt32 = 0
        package var duplicates: UInt32 = 0
        package var deadLetters: UInt32 = 0
        package var flagged: UInt32 = 0
        package var late: UInt32 = 0
        package var fromFuture: UInt32 = 0
        package var latestEventTime: Int64 = 0

        package init() {}
    }

    package init(_ pipeline: Pipeline, model: ScoringModel?, state: FeatureState, eventsMax: Int) {
        self.pipeline = pipeline
        self.model = model
        self.state = state
        self.eventsMax = eventsMax
        decoders = (0..<FeatureState.lookahead).map { _ in EventDecoder(pipeline) }
        verdicts = decoders.map { _ in Verdict() }
        scratch = model.map { ForestScratch(for: $0.forest) }
        stride = pipeline.features.count
        unsafe rows = .allocate(capacity: eventsMax * stride)
        unsafe ordered = .allocate(capacity: eventsMax * stride)
        unsafe outputs = .allocate(capacity: eventsMax)
        dimension = pipeline.vectorDimension(model)
        unsafe embeddings = .allocate(capacity: eventsMax * max(1, dimension))
        unsafe outputs.initialize(repeating: .nan, count: eventsMax)
        seen = (0..<state.partitions).map { _ in
            SeenIds(
                countMax: pipeline.limits.duplicateIdsMax,
                windowMicroseconds: pipeline.limits.duplicateWindowMicroseconds)
        }
        scored.reserveCapacity(eventsMax)
    }

    deinit {
        unsafe rows.deallocate()
        unsafe ordered.deallocate()
        unsafe outputs.deallocate()
        unsafe embeddings.deallocate()
    }

    /// The ids of a partition's recent past.
    package func seenIds(of partition: Int) -> SeenIds { seen[partition] }

    /// What an event's id is known by.
    package func identity(ofEventKey key: UnsafeRawBufferPointer) -> IdentityHash {
        unsafe IdentityHash(of: key, seed: 0x7365_656E)
    }

    /// Decodes each event, drops duplicates, assembles features and scores. Dead letters go to `deadLetters`.
    ///
    /// Decoding runs two events ahead, so that their entities' records are on their way from memory when their turn
    /// comes: what an event costs is mostly cache misses (perf: a third of lookup and features).
    ///
    /// The event whose changes reach `bytesMax` is the last: the batch gives back what comes after it.
    package func assemble(_ batch: EventBatch, deadLetters: inout ByteWriter, bytesMax: Int = .max) -> Tally {
        var tally = Tally()
        scored.removeAll(keepingCapacity: true)
        texts.removeAll()
        for index in 0..<(batch.count + Self.ahead) {
            if index < batch.count { decode(batch, index) }
            if index >= 1, index <= batch.count, verdicts[(index - 1) % decoders.count].refusal == nil {
                let place = (index - 1) % decoders.count
                state.prefetch(place: place, partition: batch.partition, time: decoders[place].time)
            }
            guard index >= Self.ahead else { continue }
            take(batch, index - Self.ahead, &tally, &deadLetters)
            if stagedBytes >= bytesMax {
                batch.truncate(to: index - Self.ahead + 1)
                break
            }
        }
        tally.scored = UInt32(scored.count)
        score()
        return tally
    }

    /// What `stage` will write, in bytes of changes, at most.
    package var stagedBytes: Int {
        let each = Change.headerBytes + EventRecord.headerBytes + 4 * (stride + dimension) + 8 * pipeline.reasonsMax
        return state.stagedBytes + texts.count + scored.count * each
    }

    private func decode(_ batch: EventBatch, _ index: Int) {
        let place = index % decoders.count
        let decoder = decoders[place]
        let event = unsafe batch.event(index)
        verdicts[place] = Verdict(refusal: unsafe decoder.decode(event.bytes, readable: event.readable))
        guard verdicts[place].refusal == nil else { return }
        guard let tenant = decoder.tenant else {
            verdicts[place].refusal = EventRefusal("unknown tenant")
            return
        }
        verdicts[place].tenant = tenant
        let keyStart = writeKey(decoder, tenant)
        verdicts[place].identity = unsafe identity(
            ofEventKey: UnsafeRawBufferPointer(rebasing: texts.bytes[keyStart...]))
        texts.truncate(to: keyStart)
        seen[batch.partition].prefetch(verdicts[place].identity)
        state.announce(decoder, place: place, tenant: tenant, partition: batch.partition)
    }

    private func take(_ batch: EventBatch, _ index: Int, _ tally: inout Tally, _ deadLetters: inout ByteWriter) {
        let place = index % decoders.count
        let appendTime = batch.appendTime(index)
        if let refusal = verdicts[place].refusal {
            tally.deadLetters += 1
            unsafe DeadLetter.write(
                offset: batch.offset(index), appendTime: appendTime, reason: refusal.description,
                bytes: batch.event(index).bytes, to: &deadLetters)
            return
        }
        let decoder = decoders[place]
        let tenant = verdicts[place].tenant
        guard seen[batch.partition].insert(verdicts[place].identity, time: appendTime) else {
            tally.duplicates += 1
            return
        }
        let keyStart = writeKey(decoder, tenant)
        observe(
            decoder, index, tenant: tenant, keyStart: keyStart, appendTime: appendTime, batch.partition, &tally)
    }

    private func observe(
        _ decoder: EventDecoder, _ index: Int, tenant: Int, keyStart: Int, appendTime: Int64, _ partition: Int,
        _ tally: inout Tally
    ) {
        var flags: EventRecord.Flags = []
        let (time, fromFuture) = pipeline.limits.effectiveTime(decoder.time, takenAt: appendTime)
        if fromFuture {
            flags.insert(.fromFuture)
            tally.fromFuture += 1
        } else {
            tally.latestEventTime = max(tally.latestEventTime, time)
        }
        let row = unsafe rows + scored.count * stride
        if unsafe state.observe(decoder, tenant: tenant, partition: partition, time: time, row: row) {
            flags.insert(.late)
            tally.late += 1
        }
        var hasVector = dimension > 0
        if pipeline.embedding.column != nil {
            let vector = unsafe decoder.vector
            hasVector = vector.count == dimension
            if hasVector, let base = vector.baseAddress {
                unsafe (embeddings + scored.count * dimension).update(from: base, count: dimension)
            }
        }
        let entityStart = texts.count
        unsafe texts.append(decoder.primaryEntity)
        let fieldsStart = texts.count
        KeptFields.write(decoder, to: &texts)
        scored.append(
            Scored(
                index: index, time: decoder.time, tenant: tenant, flags: flags, keyStart: keyStart,
                entityStart: entityStart, fieldsStart: fieldsStart, fieldsEnd: texts.count,
                hasVector: hasVector))
    }

    /// Tenant and id at the end of `texts`: the key of the event's change.
    private func writeKey(_ decoder: EventDecoder, _ tenant: Int) -> Int {
        let start = texts.count
        var name = pipeline.tenants[tenant]
        name.withUTF8 {
            texts.append(UInt8($0.count))
            unsafe texts.append(UnsafeRawBufferPointer($0))
        }
        unsafe texts.append(decoder.id)
        return start
    }

    private func score() {
        guard let model, let scratch, !scored.isEmpty else { return }
        let places = pipeline.embedding.column == nil && dimension > 0 ? unsafe embeddings : nil
        unsafe model.forest.evaluate(
            rows: arrange(model), count: scored.count, stride: stride, scratch: scratch, outputs: outputs,
            embeddings: places)
    }

    /// The rows in the model's order.
    private func arrange(_ model: ScoringModel) -> UnsafePointer<Float> {
        guard let order = model.order else { return unsafe UnsafePointer(rows) }
        for row in 0..<scored.count {
            for (place, feature) in order.enumerated() {
                unsafe ordered[row * stride + place] = unsafe rows[row * stride + Int(feature)]
            }
        }
        return unsafe UnsafePointer(ordered)
    }

    /// Visits each scored event's feature row, in the pipeline's order: the training export.
    package func forEachRow(
        _ visit: (
            _ index: Int, _ time: Int64, _ id: UnsafeRawBufferPointer, _ fields: UnsafeRawBufferPointer,
            _ row: UnsafeBufferPointer<Float>, _ score: Float
        ) throws -> Void
    ) rethrows {
        for (position, item) in scored.enumerated() {
            let tenantBytes = unsafe Int(texts.bytes[item.keyStart])
            try unsafe visit(
                item.index, item.time,
                UnsafeRawBufferPointer(rebasing: texts.bytes[(item.keyStart + 1 + tenantBytes)..<item.entityStart]),
                UnsafeRawBufferPointer(rebasing: texts.bytes[item.fieldsStart..<item.fieldsEnd]),
                UnsafeBufferPointer(start: rows + position * stride, count: stride), outputs[position])
        }
    }

    /// Writes the staged tiles and events as changes, and each event's score record; `visit` is told of each record.
    package func stage(
        _ batch: EventBatch, seq: UInt64, into writer: inout ChangeBatchWriter, scores: inout ByteWriter,
        flagged: inout UInt32, scored visit: (_ entity: UnsafeRawBufferPointer, _ lineEnd: Int) -> Void = { _, _ in }
    ) {
        state.stage(partition: batch.partition, into: &writer)
        for (position, item) in scored.enumerated() {
            let score = unsafe outputs[position]
            var flags = item.flags
            if score > pipeline.threshold {
                flags.insert(.flagged)
                flagged += 1
            }
            let reasons = flags.contains(.flagged) ? reasons(position) : []
            let bytes = unsafe texts.bytes
            let key = unsafe UnsafeRawBufferPointer(rebasing: bytes[item.keyStart..<item.entityStart])
            record.removeAll()
            unsafe EventRecord.write(
                .init(
                    eventTime: item.time, ingestTime: batch.appendTime(item.index),
                    inputOffset: batch.offset(item.index), model: model?.identity ?? 0, score: score,
                    flags: flags),
                features: UnsafeBufferPointer(start: rows + position * stride, count: stride), reasons: reasons,
                fields: UnsafeRawBufferPointer(rebasing: bytes[item.fieldsStart..<item.fieldsEnd]), to: &record)
            unsafe writer.append(
                .upsert, .event, key: key, value: record.bytes,
                vector: UnsafeBufferPointer(
                    start: embeddings + position * dimension, count: item.hasVector ? dimension : 0))
            unsafe ScoreRecord.write(
                .init(
                    id: UnsafeRawBufferPointer(rebasing: key[(1 + Int(key[0]))...]),
                    entity: UnsafeRawBufferPointer(rebasing: bytes[item.entityStart..<item.fieldsStart]),
                    time: item.time, score: score, flagged: flags.contains(.flagged),
                    degraded: flags.contains(.degraded), partition: batch.partition,
                    seq: seq, offset: batch.offset(item.index)),
                tenant: pipeline.tenants[item.tenant], model: model?.label ?? "", reasons: reasons,
                names: pipeline.featureNames, to: &scores)
            unsafe visit(UnsafeRawBufferPointer(rebasing: bytes[item.entityStart..<item.fieldsStart]), scores.count)
        }
    }

    private func reasons(_ position: Int) -> [EventRecord.Reason] {
        guard let model, pipeline.reasonsMax > 0 else { return [] }
        let source = model.order == nil ? unsafe rows : unsafe ordered
        return unsafe model.forest.reasons(row: source + position * stride, top: pipeline.reasonsMax).map { reason in
            let feature = model.order.map { Int($0[reason.feature]) } ?? reason.feature
            return EventRecord.Reason(feature: UInt16(feature), contribution: reason.contribution)
        }
    }

    /// Ends a staged batch among the seen ids.
    package func seal(partition: Int) -> SeenIds.Mark { seen[partition].seal() }

    /// The staged batch is on its way to the log; the next is assembled on top of it.
    package func advance() { state.advance() }

    /// The log has the oldest batch.
    package func commit(partition: Int, _ mark: SeenIds.Mark) {
        state.commit()
        seen[partition].commit(mark)
    }

    /// The log has the batch, and nothing was assembled on top of it.
    package func commit(partition: Int) {
        commit(partition: partition, seal(partition: partition))
    }

    /// The log does not have the oldest batch, nor what was assembled on top of it.
    package func rollback() {
        state.rollback()
        for ids in seen { ids.rollback() }
    }
}
