internal import CVectors

/// Room for the results of searches, used again and again: a search into it allocates nothing.
@safe package struct NeighbourBuffer: ~Copyable {
    /// The largest k that fits.
    package let capacity: Int
    /// The results of the last search.
    package internal(set) var count = 0
    let hits: UnsafeMutablePointer<tl_hit>
    /// A query at length 1.
    private var scratch: UnsafeMutablePointer<Float>?
    private var scratchCapacity = 0

    package init(capacity: Int) {
        precondition(capacity > 0, "room for nothing")
        self.capacity = capacity
        unsafe hits = .allocate(capacity: capacity)
        unsafe hits.initialize(repeating: tl_hit(), count: capacity)
    }

    deinit {
        unsafe hits.deallocate()
        unsafe scratch?.deallocate()
    }

    /// A result, 0 the nearest.
    package subscript(index: Int) -> Neighbour {
        precondition(index >= 0 && index < count, "no such result")
        let hit = unsafe hits[index]
        return Neighbour(
            row: VectorRow(
                id: hit.id, time: hit.time, score: hit.score, flags: hit.flags, tenant: hit.tenant, entity: hit.entity,
                label: hit.label),
            distance: hit.distance)
    }

    package var neighbours: [Neighbour] { (0..<count).map { self[$0] } }

    /// The query times a factor, in room of the buffer's own.
    mutating func scaled(_ query: UnsafeBufferPointer<Float>, by factor: Double) -> UnsafePointer<Float> {
        if unsafe scratch == nil || scratchCapacity < query.count {
            unsafe scratch?.deallocate()
            unsafe scratch = .allocate(capacity: query.count)
            scratchCapacity = query.count
        }
        guard let scratch = unsafe scratch else { preconditionFailure("just allocated") }
        for index in query.indices { unsafe scratch[index] = Float(Double(query[index]) * factor) }
        return unsafe UnsafePointer(scratch)
    }
}
