/// Where the log is and what its topics are called.
package struct KafkaConfiguration: Sendable {
    /// HOST:PORT, several separated by commas.
    package var bootstrapServers: String
    package var pipeline: String
    /// The topic of the events.
    package var input: String
    /// Properties of librdkafka that the user has set, for every client.
    package var properties: [String: String]
    /// Between a partition's commits while events trickle, microseconds: a transaction costs the same whatever its size.
    package var commitIntervalMicroseconds: Int64 = 8000

    /// False to measure what transactions cost: batches are then acknowledged, and no more. Nothing but loadtest may say so.
    package var isTransactional = true

    package init(
        bootstrapServers: String, pipeline: String, input: String = "events", properties: [String: String] = [:]
    ) {
        self.bootstrapServers = bootstrapServers
        self.pipeline = pipeline
        self.input = input
        self.properties = properties
    }

    package var changes: String { "tideline.\(pipeline).changes" }
    package var scores: String { "tideline.\(pipeline).scores" }
    package var deadLetters: String { "tideline.\(pipeline).dead-letters" }
    package var workers: String { "tideline.\(pipeline).workers" }
    package var group: String { "tideline-\(pipeline)" }

    package func instance(slot: Int) -> String { "tideline-\(pipeline)-core-\(slot)" }

    /// The two ids that a partition's transactions use in turn; the first is always initialised first.
    package func transactionalIds(partition: Int) -> [String] {
        ["a", "b"].map { "tideline-\(pipeline)-\(partition)-\($0)" }
    }

    /// What every client is given. The user's properties come last: they win.
    func client(_ name: String, _ more: [String: String]) -> [String: String] {
        var all = [
            "bootstrap.servers": bootstrapServers, "client.id": "tideline-\(name)", "socket.nagle.disable": "true",
            "socket.timeout.ms": "10000", "reconnect.backoff.ms": "20", "reconnect.backoff.max.ms": "500",
            "topic.metadata.refresh.interval.ms": "30000", "log.connection.close": "false",
        ]
        all.merge(more) { $1 }
        all.merge(properties) { $1 }
        return all
    }

    /// Of a client that reads committed records from positions that we know. A partition that is begun waits until the
    /// fetch under way comes back: `fetchWait` milliseconds, where there is nothing new.
    func reading(_ name: String, fetchWait: Int) -> [String: String] {
        client(
            name,
            [
                "isolation.level": "read_committed", "enable.auto.commit": "false", "auto.offset.reset": "error",
                "check.crcs": "true", "enable.partition.eof": "true",
                // A partition that has reached this many messages stands still for a second: the bytes bound memory.
                "queued.min.messages": "1000000", "queued.max.messages.kbytes": "16384", "fetch.error.backoff.ms": "10",
                "fetch.message.max.bytes": "4194304", "fetch.wait.max.ms": "\(fetchWait)",
            ])
    }

    /// A client that asks for ends alone, those of what is not committed, too.
    func witnessing(_ name: String) -> [String: String] {
        client(name, ["isolation.level": "read_uncommitted", "enable.auto.commit": "false"])
    }

    func group(_ name: String, instance: String) -> [String: String] {
        client(
            name,
            [
                "group.id": group, "group.instance.id": instance, "partition.assignment.strategy": "range",
                "enable.auto.commit": "false", "enable.auto.offset.store": "false", "auto.offset.reset": "error",
                "session.timeout.ms": "6000", "heartbeat.interval.ms": "500", "max.poll.interval.ms": "300000",
            ])
    }

    func transactional(id: String) -> [String: String] {
        client(id, batches.merging(["transactional.id": id, "transaction.timeout.ms": "10000"]) { $1 })
    }

    /// The same without transactions, acknowledged by all replicas in sync.
    func acknowledged(id: String) -> [String: String] {
        client(id, batches.merging(["enable.idempotence": "true"]) { $1 })
    }

    /// Records of a topic go together up to so many bytes: a topic takes 1,048,588 where nobody says otherwise, and what is
    /// larger can never be committed. One record alone may be larger, in a topic that takes it.
    private static let requestBytes = "1000000"

    private var batches: [String: String] {
        [
            "linger.ms": "0", "retry.backoff.ms": "1", "batch.size": Self.requestBytes, "batch.num.messages": "10000",
            "message.max.bytes": "8388608", "queue.buffering.max.messages": "100000",
        ]
    }

    /// A beat that could not be sent in a second is none.
    func beating() -> [String: String] {
        client(
            "beats",
            ["linger.ms": "0", "acks": "1", "message.timeout.ms": "1000", "queue.buffering.max.messages": "100"])
    }

    func ingesting() -> [String: String] {
        client(
            "ingest",
            [
                "enable.idempotence": "true", "linger.ms": "1", "batch.size": Self.requestBytes,
                "queue.buffering.max.messages": "200000", "message.timeout.ms": "15000",
            ])
    }
}
