import Changes
import Replicate
import Testing

@Suite struct ReplicaFeedTests {
    struct Seeded: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state ^ (state >> 29)
        }
    }

    /// Lost, doubled and reordered batches: everything is applied once, in order, with repairs alone to help.
    @Test(arguments: 0..<40)
    func appliesEverythingInOrder(_ seed: Int) {
        var random = Seeded(state: UInt64(seed) &* 77 &+ 1)
        var feed = ReplicaFeed(applied: 0)
        var applied: [UInt64] = []
        var now: Int64 = 0
        func arrive(_ seq: UInt64) {
            var next: UInt64? = seq
            while let seq = next {
                next = nil
                switch feed.verdict(seq) {
                case .drop: return
                case .hold: feed.hold(seq, [UInt8](repeating: UInt8(truncatingIfNeeded: seq), count: 8), now: now)
                case .apply:
                    applied.append(seq)
                    if let held = feed.didApply(seq, now: now) {
                        #expect(held[0] == UInt8(truncatingIfNeeded: seq + 1))
                        next = seq + 1
                    }
                }
            }
        }
        var onTheWay: [UInt64] = []
        for seq in 1...400 as ClosedRange<UInt64> {
            now += 5000
            if Int.random(in: 0..<5, using: &random) > 0 { onTheWay.append(seq) }
            if Int.random(in: 0..<8, using: &random) == 0 { onTheWay.append(max(1, seq / 2)) }
            if Int.random(in: 0..<3, using: &random) == 0 {
                onTheWay.shuffle(using: &random)
                onTheWay.forEach(arrive)
                onTheWay = []
            }
        }
        onTheWay.forEach(arrive)
        var rounds = 0
        feed.heard(head: 400, now: now)
        while !feed.isComplete, rounds < 2000 {
            rounds += 1
            now += 100_000
            // One answer in four is lost.
            if let range = feed.repair(now: now), Int.random(in: 0..<4, using: &random) > 0 {
                for seq in range.after + 1...range.through { arrive(seq) }
            }
        }
        #expect(applied == Array(1...400), "seed \(seed), after \(rounds) rounds")
    }

    @Test func aFeedThatMovesOnAsksForNothing() {
        var feed = ReplicaFeed(applied: 0)
        for seq in 1...100 as ClosedRange<UInt64> {
            let now = Int64(seq) * 50_000
            feed.heard(head: 1000, now: now)
            _ = feed.didApply(seq, now: now)
            #expect(feed.repair(now: now) == nil)
        }
        let range = feed.repair(now: 100 * 50_000 + 300_000)
        #expect(range?.after == 100 && range?.through == 612)
    }

    @Test func heldBatchesAreBounded() {
        var limits = ReplicaFeed.Limits()
        limits.heldBytesMax = 100
        var feed = ReplicaFeed(applied: 0, limits: limits)
        for seq in 3...50 as ClosedRange<UInt64> { feed.hold(seq, [UInt8](repeating: 0, count: 30), now: 0) }
        #expect(feed.heldCount <= 3)
    }
}

@Suite struct MessageTests {
    @Test func heartbeatsReadWhatTheyWrite() {
        let heartbeat = Heartbeat(
            lineage: Lineage(high: 1, low: 2), sentAt: 3, sender: 8, sent: -9, partitions: 4,
            heads: [.init(partition: 0, seq: 4, digest: 5, commitTime: 6, watermark: 7)])
        let bytes = heartbeat.encoded()
        #expect(bytes.withUnsafeBytes { Heartbeat(decoding: $0) } == heartbeat)
        for index in bytes.indices {
            var flipped = bytes
            flipped[index] ^= 4
            #expect(flipped.withUnsafeBytes { Heartbeat(decoding: $0) } == nil)
            #expect(bytes[..<index].withUnsafeBytes { Heartbeat(decoding: $0) } == nil)
        }
        let request = RepairRequest(lineage: Lineage(high: 1, low: 2), partition: 3, after: 4, through: 9)
        #expect(request.encoded().withUnsafeBytes { RepairRequest(decoding: $0) } == request)
        let empty = RepairRequest(lineage: Lineage(high: 1, low: 2), partition: 3, after: 9, through: 9)
        #expect(empty.encoded().withUnsafeBytes { RepairRequest(decoding: $0) } == nil)
    }
}
