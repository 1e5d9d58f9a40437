internal import CRdkafka
internal import Foundation
import Service
import Transactions

/// A worker's place in the group: which partitions are its own. It fetches nothing.
///
/// `@unchecked Sendable`: the assignment is guarded by the lock; one thread calls `poll`.
@safe final class Membership: GroupMember, @unchecked Sendable {
    fileprivate let client: KafkaClient
    private let topic: String
    private let hooks: ClientHooks
    private let lock = NSLock()
    private var assignment = GroupAssignment()

    /// Joins the group. `instance` is the slot: whoever presents it has its partitions at once.
    init(_ configuration: KafkaConfiguration, instance: String, log: Log) throws(KafkaError) {
        topic = configuration.input
        hooks = ClientHooks()
        hooks.log = log
        let box = MembershipBox()
        hooks.membership = box
        client = try KafkaClient(.consumer, configuration.group("group", instance: instance), hooks: hooks)
        unsafe rd_kafka_poll_set_consumer(client.handle)
        box.membership = self
        let list = unsafe rd_kafka_topic_partition_list_new(1)
        defer { unsafe rd_kafka_topic_partition_list_destroy(list) }
        unsafe rd_kafka_topic_partition_list_add(list, topic, -1)
        let code = unsafe rd_kafka_subscribe(client.handle, list)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw KafkaError("join the group", code: code) }
    }

    /// Serves the group's protocol and gives what has changed, oldest first.
    func poll() throws(KafkaError) -> GroupAssignment.Change? {
        if let message = unsafe rd_kafka_consumer_poll(client.handle, 0) {
            let code = unsafe message.pointee.err
            unsafe rd_kafka_message_destroy(message)
            if code == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID || code == RD_KAFKA_RESP_ERR__FATAL {
                throw KafkaError("the slot was taken by another worker", code: code)
            }
        }
        return lock.withLock { assignment.next() }
    }

    func isOwned(_ partition: Int) -> Bool { lock.withLock { assignment.isOwned(partition) } }

    func lost(_ partition: Int) { lock.withLock { assignment.lost(partition) } }

    func assigned(_ partitions: [Int]) { lock.withLock { assignment.assigned(partitions) } }

    func revoked() { lock.withLock { assignment.revoked() } }

    /// Where the group was told that a partition stands; `nil` where nobody told it.
    func reported(_ partition: Int) throws(KafkaError) -> UInt64? {
        let list = unsafe rd_kafka_topic_partition_list_new(1)
        defer { unsafe rd_kafka_topic_partition_list_destroy(list) }
        let entry = unsafe rd_kafka_topic_partition_list_add(list, topic, Int32(partition))
        let code = unsafe rd_kafka_committed(client.handle, list, 10_000)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR, let entry = unsafe entry else {
            throw KafkaError("the group's position in \(topic) [\(partition)]", code: code)
        }
        return unsafe entry.pointee.offset >= 0 ? UInt64(entry.pointee.offset) : nil
    }

    /// Tells the group where partitions stand, for lag tools, and for a pipeline that has no changelog yet. Asynchronous.
    func report(_ positions: [Int: UInt64]) {
        guard !positions.isEmpty else { return }
        let list = unsafe rd_kafka_topic_partition_list_new(Int32(positions.count))
        defer { unsafe rd_kafka_topic_partition_list_destroy(list) }
        for (partition, offset) in positions {
            let entry = unsafe rd_kafka_topic_partition_list_add(list, topic, Int32(partition))
            unsafe entry?.pointee.offset = Int64(offset)
        }
        unsafe rd_kafka_commit(client.handle, list, 1)
    }
}

extension Membership {
    /// A static member keeps its partitions until its session ends, also when its client is closed; one that has given up its
    /// subscription is let go at once.
    func leave() {
        guard unsafe rd_kafka_unsubscribe(client.handle) == RD_KAFKA_RESP_ERR_NO_ERROR else { return }
        let deadline = Date(timeIntervalSinceNow: 1)
        while Date() < deadline {
            if let message = unsafe rd_kafka_consumer_poll(client.handle, 20) {
                unsafe rd_kafka_message_destroy(message)
            }
        }
    }
}

/// What the rebalance callback reaches.
///
/// `@unchecked Sendable`: set once, before the group is joined.
@safe final class MembershipBox: @unchecked Sendable {
    weak var membership: Membership?

    func assigned(_ partitions: [Int]) { membership?.assigned(partitions) }
    func revoked() { membership?.revoked() }
}
