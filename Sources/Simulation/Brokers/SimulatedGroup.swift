import Transactions

/// The group's coordinator: static members by slot, sessions, rebalances with `range`, and reported positions.
///
/// A member that presents a slot has its partitions at once, and the one who had the slot is fenced. When members come or
/// go, everybody's partitions are taken, and given anew a moment later. A member that is silent for a session's length is
/// gone.
struct SimulatedGroup {
    struct Member {
        let slot: Int
        let incarnation: Int
        var heardAt: Int64
        var assigned: [Int]
        /// What the member has not been told yet.
        var news: [News]
    }

    enum News { case revoked, assigned([Int]) }

    static let session: Int64 = 6_000_000

    private let partitions: Int
    private(set) var members: [Member] = []
    private(set) var reported: [UInt64?]
    /// When the rebalance under way ends.
    private var rebalancesAt: Int64?

    init(partitions: Int) {
        self.partitions = partitions
        reported = Array(repeating: nil, count: partitions)
    }

    mutating func join(slot: Int, incarnation: Int, now: Int64) {
        if let index = members.firstIndex(where: { $0.slot == slot }) {
            // The slot's partitions go with it; the others notice nothing.
            let assigned = members[index].assigned
            members[index] = Member(
                slot: slot, incarnation: incarnation, heardAt: now, assigned: assigned, news: [.assigned(assigned)])
            if rebalancesAt != nil { members[index].news = [] }
        } else {
            members.append(Member(slot: slot, incarnation: incarnation, heardAt: now, assigned: [], news: []))
            members.sort { $0.slot < $1.slot }
            rebalance(now)
        }
    }

    /// Takes everybody's partitions, and gives them anew a moment later.
    mutating func rebalance(_ now: Int64) {
        for index in members.indices { members[index].news.append(.revoked) }
        rebalancesAt = now + 30_000
    }

    /// Returns false where the slot is another's.
    mutating func heartbeat(slot: Int, incarnation: Int, now: Int64) -> Bool {
        guard let index = members.firstIndex(where: { $0.slot == slot }) else {
            join(slot: slot, incarnation: incarnation, now: now)
            return true
        }
        guard members[index].incarnation == incarnation else { return false }
        members[index].heardAt = now
        return true
    }

    func isHeldByAnother(slot: Int, than incarnation: Int) -> Bool {
        members.contains { $0.slot == slot && $0.incarnation != incarnation }
    }

    mutating func advance(_ now: Int64) {
        let before = members.count
        members.removeAll { now - $0.heardAt > Self.session }
        if members.count < before { rebalance(now) }
        guard let at = rebalancesAt, at <= now else { return }
        rebalancesAt = nil
        // `range`: consecutive partitions, the first members one more.
        var next = 0
        for index in members.indices {
            let count = partitions / members.count + (index < partitions % members.count ? 1 : 0)
            members[index].assigned = Array(next..<(next + count))
            members[index].news.append(.assigned(members[index].assigned))
            next += count
        }
    }

    /// What a member is told at its next poll; `nil` where the slot is another's.
    mutating func news(slot: Int, incarnation: Int) -> [News]? {
        guard let index = members.firstIndex(where: { $0.slot == slot && $0.incarnation == incarnation }) else {
            return nil
        }
        defer { members[index].news = [] }
        return members[index].news
    }

    mutating func report(_ partition: Int, _ offset: UInt64) { reported[partition] = offset }
}
