import CWindows
import Changes
import Features
import Foundation
import Testing

let samplePipeline = """
    pipeline: sample
    event: { id: id, time: { path: t, unit: us } }
    entities:
      customer: { path: customer }
      terminal: { path: terminal, shared: true }
    fields:
      amount: { type: number }
    features:
      - value: amount
      - since_last: [customer, terminal]
      - windows: { entity: customer, of: amount, over: [5m, 1h, 24h, 7d, 30d], compute: [count, sum, mean, max, min, stddev] }
      - windows: { entity: customer, distinct: terminal, over: [24h, 30d] }
      - windows: { entity: terminal, of: amount, over: [1h, 24h, 30d], compute: [count, mean, max, stddev] }
      - ratio: { entity: customer, of: amount, over: 7d }
    """

struct PlainEvent {
    var id: Int
    var time: Int64
    var customer: Int
    var terminal: Int
    var amount: Double
    var partition: Int

    var json: [UInt8] {
        Array(
            """
            {"id":"e\(id)","t":\(time),"customer":"c\(customer)","terminal":\(terminal),"amount":\(amount)}
            """.utf8)
    }
}

extension PlainEvent {
    func `in`(partition: Int) -> PlainEvent {
        var copy = self
        copy.partition = partition
        return copy
    }
}

struct SplitMix: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

func plainEvents(_ count: Int, seed: UInt64, step: ClosedRange<Int64> = 1...600_000_000) -> [PlainEvent] {
    var random = SplitMix(state: seed)
    var time: Int64 = 1_700_000_000_000_000
    return (0..<count).map { index in
        time += Int64.random(in: step, using: &random)
        let customer = Int.random(in: 0..<7, using: &random)
        // One event in eight comes late, by up to two hours.
        let late = Int.random(in: 0..<8, using: &random) == 0 ? Int64.random(in: 0...7_200_000_000, using: &random) : 0
        return PlainEvent(
            id: index, time: time - late, customer: customer, terminal: Int.random(in: 0..<5, using: &random),
            amount: Double(Int.random(in: 1...100_000, using: &random)) / 100, partition: customer % 3)
    }
}

func observe(_ state: FeatureState, _ decoder: EventDecoder, _ event: PlainEvent) throws -> [Float] {
    let json = event.json
    return try json.withUnsafeBytes { bytes in
        if let refusal = decoder.decode(bytes, readable: bytes.count) { throw refusal }
        return [Float](unsafeUninitializedCapacity: state.featureCount) { row, count in
            _ = state.observe(
                decoder, tenant: 0, partition: event.partition, time: decoder.time, row: row.baseAddress!)
            count = state.featureCount
        }
    }
}

func same(_ a: [Float], _ b: [Float]) -> Bool {
    a.count == b.count && zip(a, b).allSatisfy { $0.bitPattern == $1.bitPattern || ($0.isNaN && $1.isNaN) }
}

@Suite struct FeatureStateTests {
    let pipeline: Pipeline

    init() throws { pipeline = try Pipeline(text: samplePipeline, file: "sample.yaml") }

    /// Every window feature against a recomputation from the whole history by the written rule.
    @Test func featuresEqualAPlainRecomputation() throws {
        let state = FeatureState(pipeline, partitions: 3)
        let decoder = EventDecoder(pipeline)
        // Without late events older than a ring: each tile that a window covers is still there.
        let events = plainEvents(3000, seed: 5)
        var maximal = 0.0
        for (position, event) in events.enumerated() {
            let row = try observe(state, decoder, event)
            state.commit()
            let expected = plainRow(events[...position], event)
            for (name, value) in expected {
                let index = try #require(pipeline.featureNames.firstIndex(of: name))
                let difference = abs(Double(row[index]) - value) / max(1, abs(value))
                if !(row[index].isNaN && value.isNaN) {
                    maximal = max(maximal, difference.isNaN ? .infinity : difference)
                }
                if difference > 1e-6 { Issue.record("event \(position) \(name): \(row[index]), expected \(value)") }
            }
            if maximal > 1e-6 { break }
        }
    }

    private func plainRow(_ history: ArraySlice<PlainEvent>, _ event: PlainEvent) -> [(String, Double)] {
        func window(_ width: Int64, _ tiles: Int64, _ ring: Int64, _ same: (PlainEvent) -> Bool, partitioned: Bool)
            -> [Double]
        {
            let last = event.time / width
            // An event older than the ring of the entity's last tiles is dropped from that level, by arrival order; in a
            // partial of a shared entity, one whose slot a newer tile of its partition holds.
            var newest: [Int64: Int64] = [:]
            var ringEnd: Int64 = 0
            var result: [(index: Int64, slot: Int64, partition: Int, amount: Double)] = []
            for other in history where same(other) {
                let index = other.time / width
                let slot = index % ring + Int64(partitioned ? other.partition : 0) * 1000
                if partitioned ? newest[slot] ?? 0 > index : index + ring <= ringEnd { continue }
                newest[slot] = index
                ringEnd = max(ringEnd, index)
                result.append((index, slot, other.partition, other.amount))
            }
            var merged: [Int64: Int64] = [:]
            for (slot, index) in newest { merged[slot % 1000] = max(merged[slot % 1000] ?? 0, index) }
            return result.filter {
                $0.index <= last && $0.index >= last - tiles && newest[$0.slot] == $0.index
                    && merged[$0.slot % 1000] == $0.index && $0.index > ringEnd - ring
            }.map(\.amount)
        }
        let minute: Int64 = 60_000_000
        let spans: [(String, Int64, Int64, Int64)] = [
            ("5m", minute, 5, 64), ("1h", minute, 60, 64), ("24h", minute * 60, 24, 32),
            ("7d", minute * 1440, 7, 32), ("30d", minute * 1440, 30, 32),
        ]
        var row: [(String, Double)] = []
        for (label, width, tiles, ring) in spans {
            let own = window(width, tiles, ring, { $0.customer == event.customer }, partitioned: false)
            let mean = own.reduce(0, +) / Double(own.count)
            let variance = own.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(own.count)
            row.append(("customer.count.\(label)", Double(own.count)))
            row.append(("customer.amount.sum.\(label)", own.reduce(0, +)))
            row.append(("customer.amount.mean.\(label)", own.isEmpty ? .nan : mean))
            row.append(("customer.amount.max.\(label)", own.max() ?? .nan))
            row.append(("customer.amount.min.\(label)", own.min() ?? .nan))
            // The deviation of values up to 1,000 from sums of squares: absolute error under 1e-4 near zero.
            if own.count > 3 { row.append(("customer.amount.stddev.\(label)", variance.squareRoot())) }
            if label == "7d" { row.append(("customer.amount.ratio.7d", event.amount / mean)) }
            guard ["1h", "24h", "30d"].contains(label) else { continue }
            let there = window(width, tiles, ring, { $0.terminal == event.terminal }, partitioned: true)
            row.append(("terminal.count.\(label)", Double(there.count)))
            row.append(("terminal.amount.max.\(label)", there.max() ?? .nan))
            row.append(
                ("terminal.amount.mean.\(label)", there.isEmpty ? .nan : there.reduce(0, +) / Double(there.count)))
        }
        return row
    }

    @Test func sinceLastIsTheTimeToTheEntitysLatestEvent() throws {
        let state = FeatureState(pipeline, partitions: 3)
        let decoder = EventDecoder(pipeline)
        let index = try #require(pipeline.featureNames.firstIndex(of: "customer.since_last"))
        let terminal = try #require(pipeline.featureNames.firstIndex(of: "terminal.since_last"))
        let t: Int64 = 1_700_000_000_000_000
        func row(_ time: Int64, customer: Int) throws -> [Float] {
            let row = try observe(
                state, decoder,
                PlainEvent(id: 0, time: time, customer: customer, terminal: 1, amount: 1, partition: customer % 3))
            state.commit()
            return row
        }
        #expect(try row(t, customer: 1)[index].isNaN)
        #expect(try row(t + 2_500_000, customer: 1)[index] == 2.5)
        let other = try row(t + 3_500_000, customer: 2)
        #expect(other[index].isNaN && other[terminal] == 1)
        #expect(try row(t + 1_000_000, customer: 1)[index] == 0, "a late event is not negative seconds away")
    }

    /// Sums of squares round: of six times 333.33 they would leave 3.8e-6.
    @Test(arguments: [(333.33, 6), (99.99, 10), (1e6 / 3, 5)])
    func equalValuesHaveNoDeviation(amount: Double, count: Int) throws {
        let state = FeatureState(pipeline, partitions: 1)
        let decoder = EventDecoder(pipeline)
        var row: [Float] = []
        for id in 0..<count {
            row = try observe(
                state, decoder,
                PlainEvent(
                    id: id, time: 1_700_000_000_000_000 + Int64(id), customer: 1, terminal: 1, amount: amount,
                    partition: 0))
        }
        for name in ["customer.amount.stddev.24h", "terminal.amount.stddev.24h"] {
            #expect(row[try #require(pipeline.featureNames.firstIndex(of: name))] == 0)
        }
    }

    /// A shared tile that another partition has moved on leaves the event out: it is late, and says so.
    @Test func anEventThatTheMergeLeavesOutIsLate() throws {
        let state = FeatureState(pipeline, partitions: 2)
        let decoder = EventDecoder(pipeline)
        var row = [Float](repeating: 0, count: state.featureCount)
        func isLate(customer: Int, time: Int64, partition: Int) throws -> Bool {
            let event = PlainEvent(
                id: customer, time: time, customer: customer, terminal: 1, amount: 1, partition: partition)
            return try event.json.withUnsafeBytes { bytes in
                if let refusal = decoder.decode(bytes, readable: bytes.count) { throw refusal }
                return row.withUnsafeMutableBufferPointer {
                    state.observe(decoder, tenant: 0, partition: partition, time: time, row: $0.baseAddress!)
                }
            }
        }
        let now: Int64 = 1_700_000_000_000_000
        #expect(try !isLate(customer: 1, time: now, partition: 0))
        // 64 tiles of a minute before: the same place of the ring.
        #expect(try isLate(customer: 2, time: now - 64 * 60_000_000, partition: 1))
        #expect(row[try #require(pipeline.featureNames.firstIndex(of: "terminal.count.1h"))] == 0)
        #expect(try !isLate(customer: 3, time: now - 60_000_000, partition: 1))
    }

    @Test func rollbackLeavesNoTrace() throws {
        let decoder = EventDecoder(pipeline)
        let events = plainEvents(400, seed: 8)
        let extra = plainEvents(300, seed: 9)
        let plain = FeatureState(pipeline, partitions: 3)
        let disturbed = FeatureState(pipeline, partitions: 3)
        for (index, event) in events.enumerated() {
            let expected = try observe(plain, decoder, event)
            plain.commit()
            if index % 20 == 0 {
                for other in extra[index / 2..<index / 2 + 40] where other.partition == index / 20 % 3 {
                    _ = try observe(disturbed, decoder, other)
                }
                disturbed.rollback()
            }
            let row = try observe(disturbed, decoder, event)
            disturbed.commit()
            let equal = same(row, expected)
            #expect(equal, "event \(index)")
        }
    }

    /// A batch may be observed on top of one whose outcome is open, of the same or another partition: kept or taken back,
    /// the state is that of a run one by one, and a sweep meanwhile writes nothing uncommitted.
    @Test func aBatchOnTopOfAnother() throws {
        let decoder = EventDecoder(pipeline)
        let plain = FeatureState(pipeline, partitions: 3)
        let state = FeatureState(pipeline, partitions: 3)
        var writer = ChangeBatchWriter()
        var random = SplitMix(state: 77)
        var outcomes = [0, 0, 0]
        let events = plainEvents(900, seed: 76)
        for start in stride(from: 0, to: events.count, by: 20) {
            // A batch is of one partition.
            let first = events[start..<start + 10].map { $0.in(partition: start / 20 % 3) }
            let later = Int.random(in: 0..<3, using: &random)
            let second = events[start + 10..<start + 20].map { $0.in(partition: later) }
            for event in first { _ = try observe(state, decoder, event) }
            writer.begin(frontier: [])
            state.stage(partition: start / 20 % 3, into: &writer)
            state.advance()
            let ahead = try second.map { try observe(state, decoder, $0) }
            let outcome = Int.random(in: 0..<3, using: &random)
            outcomes[outcome] += 1
            if outcome < 2 {
                for event in first { _ = try observe(plain, decoder, event) }
                plain.commit()
                state.commit()
                #expect(!state.isSettled)
            }
            if outcome == 0 {
                for (event, row) in zip(second, ahead) { #expect(same(try observe(plain, decoder, event), row)) }
                plain.commit()
                state.commit()
            } else {
                state.rollback()
            }
            #expect(state.isSettled)
        }
        #expect(outcomes.allSatisfy { $0 > 5 })
        for event in plainEvents(200, seed: 78) {
            #expect(same(try observe(state, decoder, event), try observe(plain, decoder, event)), "event \(event.id)")
            state.rollback()
            plain.rollback()
        }
    }

    /// A sweep leaves what a batch under way has touched until its outcome is known.
    @Test func aSweepWritesNothingUncommitted() throws {
        let decoder = EventDecoder(pipeline)
        let state = FeatureState(pipeline, partitions: 3)
        let plain = FeatureState(pipeline, partitions: 3)
        let events = plainEvents(300, seed: 91)
        for event in events[..<200].map({ $0.in(partition: 1) }) {
            _ = try observe(state, decoder, event)
            _ = try observe(plain, decoder, event)
        }
        state.commit()
        plain.commit()
        for event in events[200...] { _ = try observe(state, decoder, event.in(partition: 0)) }
        var writer = ChangeBatchWriter()
        writer.begin(frontier: [])
        state.stage(partition: 0, into: &writer)
        state.advance()
        let restarted = FeatureState(pipeline, partitions: 3)
        state.beginSweep()
        let all = state.sweepRemaining
        state.continueSweep(max: .max) { #expect(restarted.restore(storageKey: $0, value: $1)) }
        #expect(state.sweepWaits && state.sweepRemaining <= all)
        state.rollback()
        state.continueSweep(max: .max) { #expect(restarted.restore(storageKey: $0, value: $1)) }
        #expect(state.sweepRemaining == 0 && !state.sweepWaits)
        for event in plainEvents(200, seed: 92) {
            #expect(same(try observe(restarted, decoder, event), try observe(plain, decoder, event)))
            restarted.rollback()
            plain.rollback()
        }
    }

    /// The core's tiles, shipped as changes, give a replica the same state; so do a sweep and a restart.
    @Test func replicaAndRestartSeeTheSame() throws {
        let decoder = EventDecoder(pipeline)
        let core = FeatureState(pipeline, partitions: 3)
        let replica = FeatureState(pipeline, partitions: 3)
        let events = plainEvents(900, seed: 21)
        var writer = ChangeBatchWriter()
        var seq: UInt64 = 0
        for start in stride(from: 0, to: events.count, by: 30) {
            for partition in 0..<3 {
                for event in events[start..<start + 30] where event.partition == partition {
                    _ = try observe(core, decoder, event)
                }
                writer.begin(frontier: [])
                core.stage(partition: partition, into: &writer)
                core.commit()
                seq += 1
                let header = ChangeBatchHeader(
                    lineage: Lineage(high: 1, low: 2), partition: UInt32(partition), seq: seq, firstOffset: 0,
                    endOffset: 0, commitTime: 0, watermark: 0, schema: 1)
                let batch = try writer.encode(header, digestAfter: 0) { bytes, _ in try ChangeBatch(decoding: bytes) }
                batch.forEachChange { #expect(replica.apply($0, partition: partition)) }
            }
        }
        let restarted = FeatureState(pipeline, partitions: 3)
        replica.beginSweep()
        while replica.sweepRemaining > 0 {
            replica.continueSweep(max: 3) { #expect(restarted.restore(storageKey: $0, value: $1)) }
        }
        for event in plainEvents(200, seed: 22) {
            let expected = try observe(core, decoder, event)
            core.rollback()
            for state in [replica, restarted] {
                let equal = same(try observe(state, decoder, event), expected)
                #expect(equal, "event \(event.id)")
                state.rollback()
            }
        }
    }

    /// Asking about entities that nobody has seen must not fill the memory, nor disturb those that are there.
    @Test func previewsLeaveNoRecords() throws {
        let decoder = EventDecoder(pipeline)
        let asked = FeatureState(pipeline, partitions: 3)
        let plain = FeatureState(pipeline, partitions: 3)
        for (index, event) in plainEvents(300, seed: 41).enumerated() {
            for other in 0..<20 {
                let stranger = PlainEvent(
                    id: 0, time: event.time, customer: index * 1000 + other, terminal: 7_000_000 + other, amount: 1,
                    partition: other % 3)
                let row = try preview(asked, decoder, stranger)
                #expect(row[1].isNaN, "an entity that nobody has seen has no last event")
            }
            _ = try preview(asked, decoder, event)
            let expected = try observe(plain, decoder, event)
            plain.commit()
            let equal = same(try observe(asked, decoder, event), expected)
            asked.commit()
            #expect(equal, "event \(index)")
            #expect(asked.entityCount == plain.entityCount)
            #expect(asked.home(of: decoder, tenant: 0) == event.partition, "where it was seen")
        }
    }

    private func preview(_ state: FeatureState, _ decoder: EventDecoder, _ event: PlainEvent) throws -> [Float] {
        try event.json.withUnsafeBytes { bytes in
            if let refusal = decoder.decode(bytes, readable: bytes.count) { throw refusal }
            return [Float](unsafeUninitializedCapacity: state.featureCount) { row, count in
                guard let base = row.baseAddress else { return }
                state.preview(decoder, tenant: 0, partition: event.partition, time: decoder.time, row: base)
                count = state.featureCount
            }
        }
    }

    @Test func anEventAheadOfItsTakingCountsThen() {
        let limits = pipeline.limits
        let now: Int64 = 1_700_000_000_000_000
        #expect(
            limits.effectiveTime(now + limits.futureMicroseconds, takenAt: now) == (
                now + limits.futureMicroseconds, false
            ))
        #expect(limits.effectiveTime(now + limits.futureMicroseconds + 1, takenAt: now) == (now, true))
        #expect(limits.effectiveTime(now - 5, takenAt: now) == (now - 5, false))
    }

    @Test func evictedEntitiesComeBackFromTheStore() throws {
        let decoder = EventDecoder(pipeline)
        let whole = FeatureState(pipeline, partitions: 3)
        let small = FeatureState(pipeline, partitions: 3)
        var store: [[UInt8]: [UInt8]] = [:]
        small.load = { key, use in store[Array(key)]?.withUnsafeBytes { use($0) } }
        for (index, event) in plainEvents(600, seed: 31).enumerated() {
            let expected = try observe(whole, decoder, event)
            whole.commit()
            let equal = same(try observe(small, decoder, event), expected)
            #expect(equal, "event \(index)")
            small.commit()
            guard index % 10 == 9 else { continue }
            small.beginSweep()
            small.continueSweep(max: .max) { store[Array($0)] = Array($1) }
            #expect(small.evict(to: 2) > 0 && small.entityCount <= 2)
        }
    }

    @Test func everyInstructionSetGivesTheSameBits() throws {
        let decoder = EventDecoder(pipeline)
        defer { tl_windows_force_level(-1) }
        let events = plainEvents(500, seed: 77)
        var rows: [[[Float]]] = []
        for level: Int32 in [0, 1] where level == 0 || hasAVX2 {
            tl_windows_force_level(level)
            let state = FeatureState(pipeline, partitions: 3)
            rows.append(
                try events.map { event in
                    defer { state.commit() }
                    return try observe(state, decoder, event)
                })
        }
        for other in rows.dropFirst() { #expect(zip(rows[0], other).allSatisfy { same($0, $1) }) }
    }

    private var hasAVX2: Bool {
        ((try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? "").contains(" avx2")
    }
}
