internal import Synchronization

/// A tenant's vectors of one model: sealed segments, and the tail of what came since.
///
/// The newest version of an id is the row, wherever it stands: a put or delete ends older versions in the segments. A
/// search looks into the segments first and the tail last, and a put writes the tail first and ends the old version
/// last, so no row is missed while it moves; where both are seen, the tail's is taken.
///
/// One writer at a time, any number of readers who wait for nobody. The list of segments never changes: another one is
/// another collection (`VectorShelf`).
package final class VectorCollection: Sendable {
    package let dimensions: Int
    package let metric: Metric
    /// The newest last.
    package let segments: [LiveSegment]
    package let tail: VectorTail

    /// - Parameter segments: all of the dimensions and metric of the tail, the oldest first. Of rows of one id the newest
    ///   version stays; of equal versions, the later segment's.
    package convenience init(segments: [Segment], tail: VectorTail) {
        self.init(live: segments.map { LiveSegment($0) }, tail: tail)
        endSuperseded()
    }

    /// - Parameter live: segments in which whatever is superseded or deleted has ended: no id is live in two of them.
    package init(live: [LiveSegment], tail: VectorTail) {
        for part in live {
            precondition(
                part.segment.dimensions == tail.dimensions && part.segment.metric == tail.metric, "vectors of one kind")
        }
        dimensions = tail.dimensions
        metric = tail.metric
        segments = live
        self.tail = tail
    }

    private func endSuperseded() {
        for newer in segments.indices.dropFirst() {
            for row in 0..<segments[newer].segment.count {
                let sealed = segments[newer].segment.row(row)
                for older in segments[..<newer] {
                    guard let other = older.segment.find(sealed.id), older.isLive(other) else { continue }
                    if older.segment.version(other) <= sealed.version {
                        older.dead.end(other)
                    } else {
                        segments[newer].dead.end(row)
                    }
                }
            }
        }
    }

    // MARK: Writing

    /// Makes this the newest version of its id. A version that a segment already supersedes changes nothing.
    ///
    /// - Parameter version: nil is newer than all.
    @discardableResult
    package func put(_ row: VectorRow, _ vector: UnsafeBufferPointer<Float>, version: UInt64? = nil) -> PutOutcome {
        if let version, isSealed(row.id, atLeast: version) { return .stored }
        let outcome = unsafe tail.put(row, vector)
        if case .refused = outcome { return outcome }
        return endSealed(row.id) ? .replaced : outcome
    }

    @discardableResult
    package func put(_ row: VectorRow, _ vector: [Float], version: UInt64? = nil) -> PutOutcome {
        unsafe vector.withUnsafeBufferPointer { unsafe put(row, $0, version: version) }
    }

    /// Removes an id; false when it isn't there.
    @discardableResult
    package func delete(_ id: UInt64) -> Bool {
        let wasInTail = tail.delete(id)
        return endSealed(id) || wasInTail
    }

    private func isSealed(_ id: UInt64, atLeast version: UInt64) -> Bool {
        segments.contains { part in part.segment.find(id).map { part.segment.version($0) >= version } ?? false }
    }

    private func endSealed(_ id: UInt64) -> Bool {
        var ended = false
        for part in segments where part.end(id) { ended = true }
        return ended
    }

    // MARK: Reading

    /// Rows that a search can find.
    package var count: Int { segments.reduce(tail.counts.rows) { $0 + $1.count } }

    /// Rows of the segments that are superseded or deleted.
    package var deadCount: Int { segments.reduce(0) { $0 + $1.deadCount } }

    package func contains(_ id: UInt64) -> Bool { isSealed(id) || tail.contains(id) }

    /// Whether a segment has a live row of this id; the newest are looked into first.
    package func isSealed(_ id: UInt64) -> Bool {
        segments.reversed().contains { part in part.segment.find(id).map { part.isLive($0) } ?? false }
    }

    /// The k nearest rows that pass, nearest first, equal distances by id, each id once.
    package func search(
        _ query: [Float], k: Int, filter: VectorFilter = VectorFilter(), effort: SearchEffort = .recall(0.95),
        with searcher: inout CollectionSearcher
    ) throws(VectorQueryError) -> [Neighbour] {
        try unsafe query.withUnsafeBufferPointer { query throws(VectorQueryError) in
            try unsafe search(query, k: k, filter: filter, effort: effort, with: &searcher)
        }
        return searcher.neighbours
    }

    /// The same into room that the searcher keeps.
    package func search(
        _ query: UnsafeBufferPointer<Float>, k: Int, filter: VectorFilter = VectorFilter(),
        effort: SearchEffort = .recall(0.95), with searcher: inout CollectionSearcher
    ) throws(VectorQueryError) {
        searcher.neighbours.removeAll(keepingCapacity: true)
        for part in segments {
            try unsafe part.segment.check(query)
            unsafe part.segment.search(
                query, k: k, filter: filter, effort: effort, dead: part.dead, &searcher.segment, &searcher.neighbours)
        }
        let sealed = searcher.neighbours.count
        searcher.reserve(k: min(k, max(1, tail.rowsMax)))
        let found = try unsafe tail.search(query, k: k, filter: filter, into: &searcher.buffer)
        for index in 0..<found { searcher.neighbours.append(searcher.buffer[index]) }
        if segments.count + (found > 0 ? 1 : 0) > 1 { searcher.merge(tailFrom: sealed) }
        if searcher.neighbours.count > k { searcher.neighbours.removeLast(searcher.neighbours.count - k) }
    }
}
