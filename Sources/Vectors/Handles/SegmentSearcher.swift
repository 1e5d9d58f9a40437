internal import CFaiss

/// Room for searches of segments, one at a time, used again and again.
@safe package struct SegmentSearcher: ~Copyable {
    let seeker: OpaquePointer
    private(set) var found: UnsafeMutablePointer<tl_found>
    private var foundCapacity: Int
    private(set) var nodes: UnsafeMutablePointer<UInt32>
    private var nodeCapacity: Int

    package init() {
        guard let seeker = unsafe tl_seeker_make() else { preconditionFailure("no memory for a search") }
        unsafe self.seeker = seeker
        foundCapacity = 64
        unsafe found = .allocate(capacity: foundCapacity)
        nodeCapacity = 1024
        unsafe nodes = .allocate(capacity: nodeCapacity)
    }

    deinit {
        unsafe tl_seeker_free(seeker)
        unsafe found.deallocate()
        unsafe nodes.deallocate()
    }

    /// Nodes whose neighbours the last graph search looked at.
    package var expansions: Int { unsafe Int(tl_seeker_expansions(seeker)) }

    mutating func reserve(found count: Int) {
        guard count > foundCapacity else { return }
        unsafe found.deallocate()
        foundCapacity = max(count, 2 * foundCapacity)
        unsafe found = .allocate(capacity: foundCapacity)
    }

    mutating func reserve(nodes count: Int) {
        guard count > nodeCapacity else { return }
        unsafe nodes.deallocate()
        nodeCapacity = max(count, 2 * nodeCapacity)
        unsafe nodes = .allocate(capacity: nodeCapacity)
    }
}
