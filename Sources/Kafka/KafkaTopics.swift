internal import CRdkafka
import Changes
import Service

/// The topics of a log: what they should be, what they are, and their making.
package struct KafkaTopics {
    package struct Plan: Sendable {
        package let name: String
        package let partitions: Int
        package let settings: [(name: String, value: String)]
        /// What it is for.
        package let purpose: String
    }

    private let configuration: KafkaConfiguration
    private let client: KafkaClient

    package init(_ configuration: KafkaConfiguration, log: Log) throws(KafkaError) {
        self.configuration = configuration
        let hooks = ClientHooks()
        hooks.log = log
        client = try KafkaClient(.producer, configuration.client("topics", [:]), hooks: hooks)
    }

    /// What the log needs, for an input of so many partitions.
    package static func plan(_ configuration: KafkaConfiguration, partitions: Int) -> [Plan] {
        let day = 86_400_000
        return [
            Plan(
                name: configuration.input, partitions: partitions,
                settings: [("cleanup.policy", "delete"), ("retention.ms", "\(7 * day)")],
                purpose: "events in; one that is there is taken as it is"),
            Plan(
                name: configuration.changes, partitions: partitions,
                settings: [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("max.message.bytes", "8388608")],
                purpose: "the changelog: the truth, one record a transaction, never compacted"),
            Plan(
                name: configuration.scores, partitions: partitions,
                settings: [("cleanup.policy", "delete"), ("retention.ms", "\(7 * day)")],
                purpose: "one JSON record an event, for other people's consumers"),
            Plan(
                name: configuration.deadLetters, partitions: partitions,
                settings: [
                    ("cleanup.policy", "delete"), ("retention.ms", "\(30 * day)"), ("max.message.bytes", "8388608"),
                ],
                purpose: "events that could not be scored, with reason and original bytes"),
            Plan(
                name: configuration.workers, partitions: 1,
                settings: [
                    ("cleanup.policy", "delete"), ("retention.ms", "\(day / 24)"), ("segment.ms", "\(day / 24)"),
                ],
                purpose: "which core works in which slot: beats and claims"),
        ]
    }

    /// Each topic that the log needs, with the partitions that it has, `nil` where it is missing, and those that it must have
    /// for the input that is there.
    package func found() throws(KafkaError) -> [(name: String, partitions: Int?, wanted: Int?)] {
        let count = try client.partitions(of: configuration.input)
        var all: [(name: String, partitions: Int?, wanted: Int?)] = []
        for plan in Self.plan(configuration, partitions: count ?? 0) {
            all.append((plan.name, try client.partitions(of: plan.name), count == nil ? nil : plan.partitions))
        }
        return all
    }

    /// Makes what is missing, with the input's number of partitions where that is there. Returns what was made.
    package func create(partitions: Int) throws -> [Plan] {
        let found = try found()
        for topic in found {
            if let have = topic.partitions, let want = topic.wanted, have != want {
                throw KafkaLogError.partitionsDiffer(topic: topic.name, have: have, want: want)
            }
        }
        let missing = Set(found.filter { $0.partitions == nil }.map(\.name))
        let wanted = Self.plan(configuration, partitions: found[0].partitions ?? partitions).filter {
            missing.contains($0.name)
        }
        for plan in wanted { try make(plan) }
        for plan in wanted where try client.partitions(of: plan.name, waitingSeconds: 10) == nil {
            throw KafkaLogError.missingTopic(plan.name)
        }
        return wanted
    }

    private func make(_ plan: Plan) throws(KafkaError) {
        var text = [CChar](repeating: 0, count: 512)
        // The broker's own replication factor.
        guard let topic = unsafe rd_kafka_NewTopic_new(plan.name, Int32(plan.partitions), -1, &text, text.count) else {
            throw KafkaError("create \(plan.name)", code: RD_KAFKA_RESP_ERR__INVALID_ARG)
        }
        defer { unsafe rd_kafka_NewTopic_destroy(topic) }
        for setting in plan.settings { unsafe rd_kafka_NewTopic_set_config(topic, setting.name, setting.value) }
        let queue = unsafe rd_kafka_queue_new(client.handle)
        defer { unsafe rd_kafka_queue_destroy(queue) }
        var topics: [OpaquePointer?] = unsafe [topic]
        unsafe rd_kafka_CreateTopics(client.handle, &topics, 1, nil, queue)
        guard let event = unsafe rd_kafka_queue_poll(queue, 30_000) else {
            throw KafkaError("create \(plan.name)", code: RD_KAFKA_RESP_ERR__TIMED_OUT)
        }
        defer { unsafe rd_kafka_event_destroy(event) }
        let code = unsafe rd_kafka_event_error(event)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR, let result = unsafe rd_kafka_event_CreateTopics_result(event) else {
            throw KafkaError("create \(plan.name)", code: code)
        }
        var count = 0
        let results = unsafe rd_kafka_CreateTopics_result_topics(result, &count)
        guard count == 1, let one = unsafe results?[0] else { return }
        let made = unsafe rd_kafka_topic_result_error(one)
        guard made == RD_KAFKA_RESP_ERR_NO_ERROR || made == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS else {
            let said = unsafe rd_kafka_topic_result_error_string(one).map { unsafe String(cString: $0) }
            throw KafkaError("create \(plan.name)", code: made, said)
        }
    }
}
