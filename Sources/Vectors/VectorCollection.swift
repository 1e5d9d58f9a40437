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
    package let segments: [Segment]
    package let tail: VectorTail
    private let dead: [DeadRows]

    /// - Parameter segments: all of the dimensions and metric of the tail, the oldest first. Of rows of one id the newest
    ///   version stays; of equal versions, the later segment's.
    package init(segments: [Segment], tail: VectorTail) {
        for segment in segments {
            precondition(segment.dimensions == tail.dimensions && segment.metric == tail.metric, "vectors of one kind")
        }
        dimensions = tail.dimensions
        metric = tail.metric
        self.segments = segments
        self.tail = tail
        dead = segments.map { DeadRows(rows: $0.count) }
        endSuperseded()
    }

    private func endSuperseded() {
        for newer in segments.indices.dropFirst() {
            for row in 0..<segments[newer].count {
                let sealed = segments[newer].row(row)
                for older in 0..<newer {
                    guard let other = segments[older].find(sealed.id), !dead[older].contains(other) else { continue }
                    if segments[older].version(other) <= sealed.version {
                        dead[older].end(other)
                    } else {
                        dead[newer].end(row)
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
    package func put(_ row: VectorRow, _ vector: [Float], version: UInt64? = nil) -> PutOutcome {
        if let version, isSealed(row.id, atLeast: version) { return .stored }
        let outcome = tail.put(row, vector)
        if case .refused = outcome { return outcome }
        return endSealed(row.id) ? .replaced : outcome
    }

    /// Removes an id; false when it isn't there.
    @discardableResult
    package func delete(_ id: UInt64) -> Bool {
        let wasInTail = tail.delete(id)
        return endSealed(id) || wasInTail
    }

    private func isSealed(_ id: UInt64, atLeast version: UInt64) -> Bool {
        for segment in segments {
            if let row = segment.find(id), segment.version(row) >= version { return true }
        }
        return false
    }

    private func endSealed(_ id: UInt64) -> Bool {
        var ended = false
        for (index, segment) in segments.enumerated() {
            if let row = segment.find(id), dead[index].end(row) { ended = true }
        }
        return ended
    }

    // MARK: Reading

    /// Rows that a search can find.
    package var count: Int {
        segments.indices.reduce(tail.counts.rows) { $0 + segments[$1].count - dead[$1].count }
    }

    /// Rows of the segments that are superseded or deleted.
    package var deadCount: Int { dead.reduce(0) { $0 + $1.count } }

    package func contains(_ id: UInt64) -> Bool {
        for (index, segment) in segments.enumerated() {
            if let row = segment.find(id), !dead[index].contains(row) { return true }
        }
        return tail.contains(id)
    }

    /// The k nearest rows that pass, nearest first, equal distances by id, each id once.
    package func search(
        _ query: [Float], k: Int, filter: VectorFilter = VectorFilter(), effort: SearchEffort = .recall(0.95),
        with searcher: inout SegmentSearcher
    ) throws(VectorQueryError) -> [Neighbour] {
        var results: [Neighbour] = []
        try unsafe query.withUnsafeBufferPointer { query throws(VectorQueryError) in
            for (index, segment) in segments.enumerated() {
                try unsafe segment.check(query)
                unsafe segment.search(
                    query, k: k, filter: filter, effort: effort, dead: dead[index], &searcher, &results)
            }
        }
        let sealed = results.count
        results += try tail.search(query, k: k, filter: filter)
        return merged(&results, sealed: sealed, k: k)
    }

    private func merged(_ results: inout [Neighbour], sealed: Int, k: Int) -> [Neighbour] {
        if segments.count + (results.count > sealed ? 1 : 0) > 1 {
            // The later of equal ids is the newer.
            var places: [UInt64: Int] = [:]
            for index in results.indices { places[results[index].row.id] = index }
            if places.count < results.count { results = places.values.map { results[$0] } }
        }
        results.sort { ($0.distance, $0.row.id) < ($1.distance, $1.row.id) }
        if results.count > k { results.removeLast(results.count - k) }
        return results
    }
}

/// Where a tenant's collection stands: readers take it, a writer puts another in its place.
///
/// A reader holds the collection that it took until its search ends; segments that no collection has any more are freed
/// with their last reader. The lock is held for taking a reference, never while anything is opened, searched or freed.
package final class VectorShelf: Sendable {
    private let current: Mutex<VectorCollection>

    package init(_ collection: VectorCollection) { current = Mutex(collection) }

    package var collection: VectorCollection { current.withLock { $0 } }

    /// Puts another collection in place. It must hold what was written to the old one, by replay, before.
    ///
    /// - Returns: the old one.
    @discardableResult
    package func swap(_ next: VectorCollection) -> VectorCollection {
        current.withLock { collection in
            defer { collection = next }
            return collection
        }
    }
}
