import Testing

@testable import Edge

@Suite struct MergePlanTests {
    /// A million rows in seals of a thousand: few segments at any time, and each row is built once a tier.
    @Test func tiersStayFew() {
        let plan = MergePlan(fanOut: 4)
        var segments: [(rows: Int, dead: Int)] = []
        var built = 0
        var most = 0
        for _ in 0..<1000 {
            segments.append((1000, 0))
            built += 1000
            while true {
                let members = plan.next(segments, sealRows: 1000)
                if members.isEmpty { break }
                let rows = members.reduce(0) { $0 + segments[$1].rows }
                for index in members.reversed() { segments.remove(at: index) }
                segments.insert((rows, 0), at: 0)
                built += rows
            }
            most = max(most, segments.count)
        }
        #expect(segments.reduce(0) { $0 + $1.rows } == 1_000_000)
        #expect(most <= 3 * 6 && built <= 6_000_000, "\(most) segments, \(built) rows built")
    }

    @Test func whatIsDeadIsBuiltAnew() {
        let plan = MergePlan(fanOut: 4)
        #expect(plan.next([(1000, 0), (1000, 201)], sealRows: 1000) == [1])
        #expect(plan.next([(1000, 200), (1000, 0)], sealRows: 1000).isEmpty)
        #expect(plan.next([], sealRows: 1000).isEmpty)
    }
}
