internal import CRdkafka
internal import Foundation
import Service
import Synchronization

/// A worker's place in the group: which partitions are its own. It fetches nothing.
///
/// A rebalance takes all partitions from everybody and gives most of them back to whom they were taken from. Here a
/// partition that comes back was never gone: its worker goes on meanwhile. If another one was faster to take it, our next
/// commit is fenced, as a zombie's is.
///
/// `@unchecked Sendable`: the sets and `pending` are guarded by the lock; one thread calls `poll`.
@safe final class Membership: @unchecked Sendable {
    enum Change: Equatable {
        case assigned(Int)
        case revoked(Int)
    }

    private let client: KafkaClient
    private let topic: String
    private let hooks: ClientHooks
    private let lock = NSLock()
    private var pending: [Change] = []
    /// Partitions that the worker has been given, and has not been told to give up.
    private var held: Set<Int> = []
    /// What the group says is ours; `nil` while it makes up its mind.
    private var assignment: Set<Int>?

    /// Joins the group. `instance` is the slot: whoever presents it has its partitions at once. `contact` hears of each
    /// report that the group has taken.
    init(_ configuration: KafkaConfiguration, instance: String, contact: Contact, log: Log) throws(KafkaError) {
        topic = configuration.input
        hooks = ClientHooks()
        hooks.log = log
        let box = MembershipBox()
        hooks.membership = box
        hooks.contact = contact
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
    func poll() throws(KafkaError) -> Change? {
        if let message = unsafe rd_kafka_consumer_poll(client.handle, 0) {
            let code = unsafe message.pointee.err
            unsafe rd_kafka_message_destroy(message)
            if code == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID || code == RD_KAFKA_RESP_ERR__FATAL {
                throw KafkaError("the slot was taken by another worker", code: code)
            }
        }
        return lock.withLock {
            guard !pending.isEmpty else { return nil }
            let change = pending.removeFirst()
            switch change {
            case .assigned(let partition): held.insert(partition)
            case .revoked(let partition): held.remove(partition)
            }
            return change
        }
    }

    /// Whether the group says so now.
    func isOwned(_ partition: Int) -> Bool { lock.withLock { assignment?.contains(partition) ?? false } }

    /// The partition was lost to another's claim: should the group give it to us, it is new.
    func lost(_ partition: Int) { _ = lock.withLock { held.remove(partition) } }

    func assigned(_ partitions: [Int]) {
        lock.withLock {
            let now = Set(partitions)
            assignment = now
            // What is pending is not known to the worker yet.
            pending =
                held.subtracting(now).sorted().map(Change.revoked) + now.subtracting(held).sorted().map(Change.assigned)
        }
    }

    func revoked() { lock.withLock { assignment = nil } }

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

/// When the brokers last answered.
final class Contact: Sendable {
    private let at: Atomic<Int64>
    private let clock: any WallClock
    /// Reports go out once a second.
    private static let patience: Int64 = 4_000_000

    init(_ clock: any WallClock) {
        self.clock = clock
        at = Atomic(clock.now)
    }

    func heard() { at.store(clock.now, ordering: .relaxed) }

    var isRecent: Bool { clock.now - at.load(ordering: .relaxed) < Self.patience }
}

/// What the rebalance callback reaches.
///
/// `@unchecked Sendable`: set once, before the group is joined.
@safe final class MembershipBox: @unchecked Sendable {
    weak var membership: Membership?

    func assigned(_ partitions: [Int]) { membership?.assigned(partitions) }
    func revoked() { membership?.revoked() }
}
