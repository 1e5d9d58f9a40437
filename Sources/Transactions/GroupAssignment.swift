/// Which partitions a worker holds and which the group gives it: a pure state machine.
///
/// A rebalance takes all partitions from everybody and gives most of them back to whom they were taken from. Here a
/// partition that comes back was never gone: its worker goes on meanwhile. If another one was faster to take it, our next
/// commit is fenced, as a zombie's is.
package struct GroupAssignment: Sendable {
    package enum Change: Equatable, Sendable {
        case assigned(Int)
        case revoked(Int)
    }

    private var pending: [Change] = []
    /// Partitions that the worker has been given, and has not been told to give up.
    private var held: Set<Int> = []
    /// What the group says is ours; `nil` while it makes up its mind.
    private var assignment: Set<Int>?

    package init() {}

    /// What has changed for the worker, oldest first.
    package mutating func next() -> Change? {
        guard !pending.isEmpty else { return nil }
        let change = pending.removeFirst()
        switch change {
        case .assigned(let partition): held.insert(partition)
        case .revoked(let partition): held.remove(partition)
        }
        return change
    }

    package func isOwned(_ partition: Int) -> Bool { assignment?.contains(partition) ?? false }

    package mutating func lost(_ partition: Int) { held.remove(partition) }

    package mutating func assigned(_ partitions: [Int]) {
        let now = Set(partitions)
        assignment = now
        // What is pending is not known to the worker yet.
        pending =
            held.subtracting(now).sorted().map(Change.revoked) + now.subtracting(held).sorted().map(Change.assigned)
    }

    package mutating func revoked() { assignment = nil }
}
