internal import CRdkafka
internal import Foundation

/// Reads one partition of a topic from an offset on, committed records alone, in a queue of its own.
///
/// Not thread-safe: one thread reads. A client reads a partition once at a time.
@safe final class PartitionReader {
    private let client: KafkaClient
    private let topic: OpaquePointer
    private let partition: Int32
    private let queue: OpaquePointer
    private var messages: UnsafeMutablePointer<UnsafeMutablePointer<rd_kafka_message_t>?>
    private let capacity: Int
    private var first = 0
    private var end = 0
    /// The offset at which the partition was last seen to end, as the broker says.
    private(set) var endOffset: Int64 = -1

    @safe struct Record {
        var offset: Int64
        /// Microseconds since 1970; 0 where the record has none.
        var time: Int64
        var key: UnsafeRawBufferPointer
        var value: UnsafeRawBufferPointer
    }

    /// `wake` is called on a thread of the library when records wait.
    init(
        _ client: KafkaClient, topic name: String, partition: Int, from offset: Int64, capacity: Int = 2048,
        wake: KafkaWake? = nil
    ) throws(KafkaError) {
        self.client = client
        self.partition = Int32(partition)
        self.capacity = capacity
        unsafe topic = try unsafe client.topic(name)
        unsafe messages = .allocate(capacity: capacity)
        unsafe queue = unsafe rd_kafka_queue_new(client.handle)
        self.wake = wake
        if let wake {
            unsafe rd_kafka_queue_cb_event_enable(queue, woken, Unmanaged.passUnretained(wake).toOpaque())
        }
        guard unsafe rd_kafka_consume_start_queue(topic, self.partition, offset, queue) == 0 else {
            throw KafkaError("read \(name) [\(partition)]", code: rd_kafka_last_error())
        }
        started = true
    }

    private let wake: KafkaWake?
    private var started = false

    deinit {
        release()
        if started { unsafe rd_kafka_consume_stop(topic, partition) }
        unsafe rd_kafka_queue_cb_event_enable(queue, nil, nil)
        unsafe rd_kafka_queue_destroy(queue)
        unsafe messages.deallocate()
    }

    private func release() {
        while first < end {
            if let message = unsafe messages[first] { unsafe rd_kafka_message_destroy(message) }
            first += 1
        }
        first = 0
        end = 0
    }

    /// Records that `read` hands over without asking the library.
    var fetched: Int { end - first }

    /// Records that wait, at least.
    var waiting: Int { fetched + queued }

    /// Those of them that the library still has. Any thread may ask.
    var queued: Int { unsafe Int(rd_kafka_queue_length(queue)) }

    /// Hands over records that wait, in order, while `visit` says so: a record for which it says no is handed over again
    /// the next time. Returns whether there were any.
    func read(waitMilliseconds: Int32, _ visit: (Record) throws -> Bool) throws -> Bool {
        if first == end {
            let count = unsafe rd_kafka_consume_batch_queue(queue, waitMilliseconds, messages, capacity)
            guard count > 0 else { return false }
            first = 0
            end = count
        }
        var any = false
        while first < end {
            guard let message = unsafe messages[first] else { preconditionFailure("a message that was counted") }
            let code = unsafe message.pointee.err
            if code == RD_KAFKA_RESP_ERR__PARTITION_EOF {
                endOffset = unsafe message.pointee.offset
            } else if code != RD_KAFKA_RESP_ERR_NO_ERROR {
                let text = unsafe String(cString: rd_kafka_message_errstr(message))
                // What passes by itself is the client's business.
                if !Self.passes(code) { throw KafkaError("read [\(partition)]", code: code, text) }
            } else {
                any = true
                var type = RD_KAFKA_TIMESTAMP_NOT_AVAILABLE
                let time = unsafe rd_kafka_message_timestamp(message, &type)
                let record = unsafe Record(
                    offset: message.pointee.offset, time: max(0, time) * 1000,
                    key: UnsafeRawBufferPointer(start: message.pointee.key, count: message.pointee.key_len),
                    value: UnsafeRawBufferPointer(start: message.pointee.payload, count: message.pointee.len))
                guard try visit(record) else { return true }
            }
            unsafe rd_kafka_message_destroy(message)
            first += 1
        }
        return any
    }

    private static func passes(_ code: rd_kafka_resp_err_t) -> Bool {
        [
            RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, RD_KAFKA_RESP_ERR__TIMED_OUT,
            RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION,
            RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
        ].contains { $0 == code }
    }
}

/// Lets a thread sleep until the client has something for it.
///
/// `@unchecked Sendable`: guarded by the condition.
@safe final class KafkaWake: @unchecked Sendable {
    private let condition = NSCondition()
    private var isSet = false

    func set() {
        condition.lock()
        isSet = true
        condition.signal()
        condition.unlock()
    }

    /// Waits until `set`, or for so long.
    func wait(microseconds: Int64) {
        condition.lock()
        defer { condition.unlock() }
        if !isSet, microseconds > 0 {
            _ = condition.wait(until: Date(timeIntervalSinceNow: Double(microseconds) / 1_000_000))
        }
        isSet = false
    }
}

private func woken(_ handle: OpaquePointer?, _ opaque: UnsafeMutableRawPointer?) {
    guard let opaque = unsafe opaque else { return }
    unsafe Unmanaged<KafkaWake>.fromOpaque(opaque).takeUnretainedValue().set()
}
