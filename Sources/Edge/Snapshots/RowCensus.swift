import Storage

/// What a region's searches can find at one moment, for whoever holds it against the log.
package struct RowCensus: Sendable {
    /// By partition, `nil` where nothing came yet.
    package let positions: [AppliedPosition?]
    /// By partition, the input offsets of all rows, ascending; one that can be found in two places is there twice.
    package let offsets: [[UInt64]]
    /// The snapshot that serves; 0 for none.
    package let snapshot: UInt64
    /// Everything that the snapshot holds has been applied: not so for a while after a restart with an older view.
    package let hasReachedSnapshot: Bool
}

extension Region {
    /// Walks over all rows, between two batches; `nil` before there are any. For checks, not for serving.
    package var census: RowCensus? {
        guard let replica else { return nil }
        return replica.betweenBatches { positions in
            var offsets: [[UInt64]] = positions.map { _ in [] }
            func note(_ place: UInt64) { offsets[EventKey.partition(of: place)].append(place & EventKey.offsetMask) }
            for tenant in pipeline.tenants.indices {
                let collection = replica.vectors.collection(tenant)
                for segment in collection.segments { segment.forEach { row, _ in note(row.id) } }
                unsafe collection.tail.contents.forEach { row, _ in note(row.id) }
            }
            let sealed = replica.vectors.sealed
            return RowCensus(
                positions: positions, offsets: offsets.map { $0.sorted() }, snapshot: replica.vectors.snapshot,
                hasReachedSnapshot: zip(positions, sealed.seqs).allSatisfy { $0?.seq ?? 0 >= $1 })
        }
    }
}
