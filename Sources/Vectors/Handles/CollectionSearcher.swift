/// Room for searches of collections, one at a time, used again and again: a search that needs no more than those before
/// allocates nothing.
package struct CollectionSearcher: ~Copyable {
    /// The results of the last search, nearest first.
    package internal(set) var neighbours: [Neighbour] = []
    var segment = SegmentSearcher()
    var buffer = NeighbourBuffer(capacity: 16)
    private var places: [UInt64: Int] = [:]

    package init() {}

    mutating func reserve(k: Int) {
        if k > buffer.capacity { buffer = NeighbourBuffer(capacity: max(k, 2 * buffer.capacity)) }
    }

    /// Sorts what segments and tail gave. Of a row that moves, or has just been replaced, the tail's version stays.
    mutating func merge(tailFrom sealed: Int) {
        if sealed > 0, sealed < neighbours.count {
            places.removeAll(keepingCapacity: true)
            for index in sealed..<neighbours.count { places[neighbours[index].row.id] = index }
            var kept = 0
            for index in neighbours.indices where index >= sealed || places[neighbours[index].row.id] == nil {
                neighbours[kept] = neighbours[index]
                kept += 1
            }
            neighbours.removeLast(neighbours.count - kept)
        }
        neighbours.sort { ($0.distance, $0.row.id) < ($1.distance, $1.row.id) }
    }
}
