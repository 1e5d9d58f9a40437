/// The producers upstream: events in the order of time, some sent twice, some that cannot be read.
struct EventSource {
    /// What was sent, as the oracle knows it.
    enum Sent {
        case event(id: Int, customer: Int, terminal: Int, amount: Int)
        case malformed
        /// The offset holds no event.
        case nothing
    }

    static let customers = 12
    static let terminals = 4
    private var next = 0
    private var eventTime: Int64 = 0

    /// The next thing that reaches the brokers: its partition, its bytes and what it is.
    mutating func make(
        partitions: Int, now: Int64, _ random: inout SeededGenerator
    ) -> (partition: Int, bytes: [UInt8]?, sent: Sent) {
        if random.oneIn(40) { return (random.below(partitions), nil, .nothing) }
        if random.oneIn(30) {
            let bad = [
                "", "{", "[1,2]", "{\"id\":\"x\"}", "{\"id\":\"y\",\"t\":1,\"c\":\"c\",\"m\":\"m\",\"amount\":\"z\"}",
            ]
            return (random.below(partitions), Array(bad[random.below(bad.count)].utf8), .malformed)
        }
        var id = next
        if next > 0, random.oneIn(8) {
            // A producer sends again; mostly what it sent a moment ago.
            id = max(0, next - 1 - random.below(random.oneIn(4) ? 600 : 20))
        } else {
            next += 1
        }
        // The same id always goes to the same partition, since its customer does.
        let customer = id % Self.customers
        let terminal = random.below(Self.terminals)
        let amount = random.below(1000)
        eventTime = max(eventTime + 1, now)
        let text =
            "{\"id\":\"e\(id)\",\"t\":\(eventTime),\"c\":\"c\(customer)\",\"m\":\"m\(terminal)\",\"amount\":\(amount),"
            + "\"v\":[\(1 + amount % 16),\(terminal)]}"
        return (
            customer % partitions, Array(text.utf8),
            .event(id: id, customer: customer, terminal: terminal, amount: amount)
        )
    }

    /// The pipeline that reads them. Its windows are longer than any history, so that a dictionary can count.
    static let pipeline = """
        pipeline: simulated
        event: { id: id, time: { path: t, unit: us } }
        entities:
          customer: { path: c }
          terminal: { path: m, shared: true }
        fields: { amount: { type: number, required: true } }
        embedding: { field: v, dimension: 2, metric: l2 }
        features:
          - value: amount
          - windows: { entity: customer, of: amount, over: [30d], compute: [count, sum] }
          - windows: { entity: terminal, of: amount, over: [30d], compute: [count] }
        limits: { duplicate_ids: \(duplicateIdsMax), duplicate_window: \(duplicateSeconds)s, entities_in_memory: 1000 }
        """

    static let duplicateIdsMax = 150
    static let duplicateSeconds = 60
}
