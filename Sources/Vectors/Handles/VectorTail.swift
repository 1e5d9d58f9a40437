internal import CVectors
internal import Synchronization

/// The newest vectors of one tenant and one model, searched exactly.
///
/// One writer at a time (a lock sees to it) and any number of readers, who wait for nobody: a search takes a reference
/// to the list of chunks together with the number of the last change, and sees the rows that were there after that
/// change, whole, each id once. Rows are never written over: a change gives the old version an end and appends the
/// new one. Chunks that hold nothing live go; when more than half of all rows are dead, the live ones move together.
///
/// Bounded by rows and by bytes; the oldest rows give way and are counted. Updates need room for dead rows, so bytes
/// should be twice what `rowsMax` rows take (`bytes(rows:dimensions:)`), or rows go before `rowsMax` is reached. Readers
/// keep chunks alive that the tail has dropped until their search ends.
///
/// `@unchecked Sendable`: the writer's state is touched under the writer's lock alone.
package final class VectorTail: @unchecked Sendable {
    package let dimensions: Int
    package let metric: Metric
    package let rowsMax: Int
    package let bytesMax: Int

    private let published = Mutex(Published())
    private let lock = Mutex(())
    private var writer = Writer()

    /// What a reader takes.
    struct Published {
        var chunks: [VectorChunk] = []
        var sequence: UInt64 = 0
    }

    struct Place {
        var chunk: VectorChunk
        var slot: Int
    }

    struct Writer {
        var chunks: [VectorChunk] = []
        var places: [UInt64: Place] = [:]
        var sequence: UInt64 = 0
        var counts = TailCounts()
        var scratch: [Float] = []
    }

    private static let chunkBytesMax = 1 << 20
    private static let firstChunkRows = 64
    /// Squared lengths below it can't be divided by in single precision.
    private static let norm2Min = 1e-30
    private static let norm2Max = 1e38

    package init(dimensions: Int, metric: Metric, rowsMax: Int, bytesMax: Int? = nil) {
        precondition(dimensions > 0 && rowsMax > 0, "a tail holds something")
        self.dimensions = dimensions
        self.metric = metric
        self.rowsMax = rowsMax
        let row = VectorChunk.bytesPerRow(dimensions: dimensions)
        self.bytesMax = max(bytesMax ?? Self.bytes(rows: rowsMax, dimensions: dimensions), 64 * row)
    }

    /// What a tail of so many rows takes when they are updated: twice their size, and a chunk.
    package static func bytes(rows: Int, dimensions: Int) -> Int {
        2 * rows * VectorChunk.bytesPerRow(dimensions: dimensions) + 2 * chunkBytesMax
    }

    package var counts: TailCounts { withWriter { $0.counts } }

    package func contains(_ id: UInt64) -> Bool { withWriter { $0.places[id] != nil } }

    // MARK: Writing

    /// Makes this the newest version of its id. A vector that is refused leaves an older version as it is.
    @discardableResult
    package func put(_ row: VectorRow, _ vector: [Float]) -> PutOutcome {
        unsafe vector.withUnsafeBufferPointer { unsafe put(row, $0) }
    }

    @discardableResult
    package func put(_ row: VectorRow, _ vector: UnsafeBufferPointer<Float>) -> PutOutcome {
        withWriter { writer in
            if vector.count != dimensions {
                writer.counts.refusedDimensions += 1
                return .refused(.dimensions)
            }
            let norm2 = unsafe tl_vectors_norm2(vector.baseAddress, UInt32(dimensions))
            if !(norm2 < Self.norm2Max) {
                writer.counts.refusedNotFinite += 1
                return .refused(.notFinite)
            }
            if norm2 < Self.norm2Min {
                writer.counts.refusedZero += 1
                return .refused(.zero)
            }
            if metric == .cosine {
                let factor = 1 / norm2.squareRoot()
                writer.scratch.removeAll(keepingCapacity: true)
                for index in vector.indices { unsafe writer.scratch.append(Float(Double(vector[index]) * factor)) }
                let scratch = writer.scratch
                return unsafe scratch.withUnsafeBufferPointer { unsafe store(row, $0, &writer) }
            }
            return unsafe store(row, vector, &writer)
        }
    }

    /// Removes an id; false when it isn't there.
    @discardableResult
    package func delete(_ id: UInt64) -> Bool {
        withWriter { writer in
            guard let place = writer.places.removeValue(forKey: id) else { return false }
            writer.sequence += 1
            place.chunk.end(place.slot, at: writer.sequence)
            writer.counts.rows -= 1
            writer.counts.deleted += 1
            publish(&writer)
            return true
        }
    }

    /// Forgets all rows.
    package func removeAll() {
        withWriter { writer in
            writer.sequence += 1
            writer.chunks = []
            writer.places = [:]
            writer.counts.rows = 0
            count(&writer)
            publish(&writer)
        }
    }

    /// Why a vector is none, whatever its dimensions.
    static func refusal(of vector: UnsafeBufferPointer<Float>) -> PutOutcome.Refusal? {
        let norm2 = unsafe tl_vectors_norm2(vector.baseAddress, UInt32(vector.count))
        if !(norm2 < norm2Max) { return .notFinite }
        return norm2 < norm2Min ? .zero : nil
    }

    private func withWriter<R>(_ body: (inout Writer) -> R) -> R {
        lock.withLock { _ in body(&writer) }
    }

    private func store(_ row: VectorRow, _ vector: UnsafeBufferPointer<Float>, _ writer: inout Writer) -> PutOutcome {
        makeRoom(&writer)
        guard let chunk = writer.chunks.last else { preconditionFailure("room was made") }
        writer.sequence += 1
        let slot = unsafe chunk.append(row, vector, born: writer.sequence)
        let old = writer.places.updateValue(Place(chunk: chunk, slot: slot), forKey: row.id)
        if let old {
            old.chunk.end(old.slot, at: writer.sequence)
            writer.counts.replaced += 1
        } else {
            writer.counts.rows += 1
            writer.counts.stored += 1
        }
        while writer.counts.rows > rowsMax { evictOldest(&writer) }
        publish(&writer)
        return old == nil ? .stored : .replaced
    }

    private func publish(_ writer: inout Writer) {
        while let first = writer.chunks.first, first.live == 0, writer.chunks.count > 1 {
            writer.chunks.removeFirst()
            count(&writer)
        }
        let chunks = writer.chunks
        let sequence = writer.sequence
        published.withLock { published in
            published.chunks = chunks
            published.sequence = sequence
        }
    }

    /// Counts the room, after the list of chunks has changed.
    private func count(_ writer: inout Writer) {
        writer.counts.slots = writer.chunks.reduce(0) { $0 + $1.capacity }
        writer.counts.bytes = writer.chunks.reduce(0) { $0 + $1.bytes }
    }

    private func evictOldest(_ writer: inout Writer) {
        for chunk in writer.chunks where chunk.live > 0 {
            while !chunk.isLive(chunk.firstLive) { chunk.firstLive += 1 }
            writer.places[chunk.id(chunk.firstLive)] = nil
            chunk.end(chunk.firstLive, at: writer.sequence)
            writer.counts.rows -= 1
            writer.counts.evicted += 1
            return
        }
    }

    /// Sees to a free slot in the last chunk.
    private func makeRoom(_ writer: inout Writer) {
        if let last = writer.chunks.last, !last.isFull { return }
        if writer.counts.slots > 2 * writer.counts.rows, writer.counts.slots > Self.firstChunkRows {
            compact(&writer)
            count(&writer)
            if let last = writer.chunks.last, !last.isFull { return }
        }
        let chunk = VectorChunk(capacity: nextCapacity(writer), dimensions: dimensions)
        writer.chunks.append(chunk)
        count(&writer)
        while writer.chunks.count > 1, writer.counts.bytes > bytesMax {
            let oldest = writer.chunks.removeFirst()
            for slot in 0..<Int(oldest.used) where oldest.isLive(slot) {
                writer.places[oldest.id(slot)] = nil
                writer.counts.rows -= 1
                writer.counts.evicted += 1
            }
            count(&writer)
        }
    }

    /// Moves the live rows together, in their order; readers go on with the chunks that they have.
    private func compact(_ writer: inout Writer) {
        let old = writer.chunks
        writer.chunks = []
        for chunk in old where chunk.live > 0 {
            for slot in 0..<Int(chunk.used) where chunk.isLive(slot) {
                if writer.chunks.last?.isFull ?? true {
                    writer.chunks.append(VectorChunk(capacity: nextCapacity(writer), dimensions: dimensions))
                }
                let target = writer.chunks[writer.chunks.count - 1]
                let place = Place(chunk: target, slot: target.append(from: chunk, slot))
                writer.places[chunk.id(slot)] = place
            }
        }
    }

    /// Chunks double from a small one on, so that many small tenants cost little.
    private func nextCapacity(_ writer: Writer) -> Int {
        let row = VectorChunk.bytesPerRow(dimensions: dimensions)
        let most = max(16, min(Self.chunkBytesMax, bytesMax / 4) / row)
        let next = writer.chunks.last.map { $0.capacity * 2 } ?? Self.firstChunkRows
        return max(16, min(next, most) / 16 * 16)
    }

    /// What it holds now. Cheap: rows are copied when they are visited.
    package var contents: TailContents {
        published.withLock { TailContents(chunks: $0.chunks, sequence: $0.sequence, dimensions: dimensions) }
    }

    // MARK: Searching

    /// The k nearest rows that pass the filter, nearest first, equal distances by id; fewer when fewer pass.
    package func search(_ query: [Float], k: Int, filter: VectorFilter = VectorFilter()) throws(VectorQueryError)
        -> [Neighbour]
    {
        if k <= 0 { return [] }
        var buffer = NeighbourBuffer(capacity: min(k, max(1, rowsMax)))
        try unsafe query.withUnsafeBufferPointer { query throws(VectorQueryError) in
            _ = try unsafe search(query, k: k, filter: filter, into: &buffer)
        }
        return buffer.neighbours
    }

    /// The same into room that the caller keeps, k at most its capacity; allocates nothing.
    ///
    /// - Returns: the number of results.
    @discardableResult
    package func search(
        _ query: UnsafeBufferPointer<Float>, k: Int, filter: VectorFilter = VectorFilter(),
        into buffer: inout NeighbourBuffer
    ) throws(VectorQueryError) -> Int {
        buffer.count = 0
        guard query.count == dimensions, let base = query.baseAddress else {
            throw .dimensions(expected: dimensions, actual: query.count)
        }
        let norm2 = unsafe tl_vectors_norm2(base, UInt32(dimensions))
        if !(norm2 < Self.norm2Max) { throw .notFinite }
        if norm2 < Self.norm2Min { throw .zero }
        let count = min(k, buffer.capacity)
        if count <= 0 { return 0 }
        let vector = unsafe metric == .cosine ? buffer.scaled(query, by: 1 / norm2.squareRoot()) : base
        let (chunks, sequence) = published.withLock { ($0.chunks, $0.sequence) }
        var rule = tl_filter(
            time_min: filter.times.lowerBound, time_max: filter.times.upperBound,
            score_min: filter.scores.lowerBound, score_max: filter.scores.upperBound, flags_all: filter.flags,
            entity: filter.entity ?? 0, label: filter.label ?? 0, any_entity: filter.entity == nil,
            any_label: filter.label == nil, any_score: filter.scores == VectorFilter().scores, is_any: filter.passesAll,
            sequence: sequence)
        var best = unsafe tl_best(hits: buffer.hits, k: UInt32(count), count: 0)
        let kind = metric == .innerProduct ? TL_INNER_PRODUCT : TL_SQUARED_L2
        for chunk in chunks { unsafe chunk.scan(vector, kind, &rule, &best) }
        buffer.count = Int(unsafe best.count)
        if metric == .cosine {
            for index in 0..<buffer.count { unsafe buffer.hits[index].distance /= 2 }
        }
        return buffer.count
    }
}
