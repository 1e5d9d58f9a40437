@testable import Edge
import Testing

@Suite struct RegionStatusTests {
    /// Cores that share a log speak of their own partitions: the silence of one is not covered by another's voice, and a
    /// partition of which nobody has spoken is not fresh.
    @Test func everyPartitionIsHeardOf() {
        var status = RegionStatus()
        status.hasView = true
        status.isConnected = true
        status.isComplete = true
        let now: Int64 = 100_000_000
        #expect(status.state(now: now) == .stale, "nobody has said how many partitions there are")
        status.partitions = 3
        status.heard = [0: (now, now), 1: (now, now)]
        #expect(status.state(now: now) == .stale && status.heardAt == 0)
        status.heard[2] = (now - 1_000_000, now - 900_000)
        #expect(status.state(now: now) == .fresh)
        #expect(status.heardAt == now - 1_000_000 && status.heardSentAt == now - 900_000)
        status.heard[1] = (now - 4_000_000, now - 4_000_000)
        #expect(status.state(now: now) == .stale)
    }
}
