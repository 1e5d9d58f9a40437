internal import CRdkafka
internal import Foundation
import Service

/// One client of librdkafka. Children retain it.
///
/// `@unchecked Sendable`: "librdkafka is completely thread-safe" (INTRODUCTION.md); the rest is guarded by the
/// lock.
@safe final class KafkaClient: @unchecked Sendable {
    let handle: OpaquePointer
    private let hooks: ClientHooks
    private let lock = NSLock()
    private var topics: [String: OpaquePointer] = unsafe [:]

    enum Kind { case producer, consumer }

    init(_ kind: Kind, _ properties: [String: String], hooks: ClientHooks = ClientHooks()) throws(KafkaError) {
        let configuration = unsafe rd_kafka_conf_new()
        var text = [CChar](repeating: 0, count: 512)
        for (name, value) in properties.sorted(by: { $0.key < $1.key }) {
            guard unsafe rd_kafka_conf_set(configuration, name, value, &text, text.count) == RD_KAFKA_CONF_OK else {
                unsafe rd_kafka_conf_destroy(configuration)
                // The library repeats the value, which may be a password.
                throw KafkaError(
                    "kafka: property \(name)", code: RD_KAFKA_RESP_ERR__INVALID_ARG,
                    Self.message(text).replacingOccurrences(of: value, with: "…"))
            }
        }
        unsafe rd_kafka_conf_set_opaque(configuration, Unmanaged.passUnretained(hooks).toOpaque())
        unsafe rd_kafka_conf_set_log_cb(configuration, logged)
        unsafe rd_kafka_conf_set_error_cb(configuration, failed)
        if kind == .producer { unsafe rd_kafka_conf_set_dr_msg_cb(configuration, delivered) }
        if hooks.membership != nil { unsafe rd_kafka_conf_set_rebalance_cb(configuration, rebalanced) }
        unsafe SpinGuard.install(configuration)
        let type = kind == .producer ? RD_KAFKA_PRODUCER : RD_KAFKA_CONSUMER
        guard let handle = unsafe rd_kafka_new(type, configuration, &text, text.count) else {
            unsafe rd_kafka_conf_destroy(configuration)
            throw KafkaError("kafka client", code: RD_KAFKA_RESP_ERR__INVALID_ARG, Self.message(text))
        }
        unsafe self.handle = unsafe handle
        self.hooks = hooks
    }

    deinit {
        unsafe topics.values.forEach { unsafe rd_kafka_topic_destroy($0) }
        // A consumer's close can hang for ever in this version: what is committed does not depend on it.
        unsafe rd_kafka_destroy_flags(handle, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE)
    }

    private static func message(_ text: [CChar]) -> String {
        String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// What went wrong; where no broker could be spoken to, with what the client said of it: a refused password, say.
    private func failure(_ operation: String, _ code: rd_kafka_resp_err_t) -> KafkaError {
        let unreachable = [
            RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR__TIMED_OUT, RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN,
        ]
        guard unreachable.contains(code), let said = hooks.lastMessage else { return KafkaError(operation, code: code) }
        return unsafe KafkaError(operation, code: code, "\(String(cString: rd_kafka_err2str(code))). \(said)")
    }

    /// The first and the last offset of a partition; of a reading client the last that is committed.
    func watermarks(_ topic: String, _ partition: Int) throws(KafkaError) -> (low: Int64, high: Int64) {
        (try offset(topic, partition, RD_KAFKA_OFFSET_BEGINNING), try offset(topic, partition, RD_KAFKA_OFFSET_END))
    }

    /// One of a partition's ends. (The library's own call for both waits for a leader that is dead, however long.)
    private func offset(_ topic: String, _ partition: Int, _ end: Int32) throws(KafkaError) -> Int64 {
        let list = unsafe rd_kafka_topic_partition_list_new(1)
        defer { unsafe rd_kafka_topic_partition_list_destroy(list) }
        guard let entry = unsafe rd_kafka_topic_partition_list_add(list, topic, Int32(partition)) else {
            throw KafkaError("ends of \(topic) [\(partition)]", code: RD_KAFKA_RESP_ERR__FAIL)
        }
        unsafe entry.pointee.offset = Int64(end)
        let code = unsafe rd_kafka_offsets_for_times(handle, list, 5000)
        // The list may have been filled anew: it is looked at again.
        let found = unsafe list?.pointee.elems[0]
        let error = unsafe code == RD_KAFKA_RESP_ERR_NO_ERROR ? found?.err ?? RD_KAFKA_RESP_ERR__FAIL : code
        guard error == RD_KAFKA_RESP_ERR_NO_ERROR, let found = unsafe found else {
            throw failure("ends of \(topic) [\(partition)]", error)
        }
        return unsafe found.offset
    }

    /// The local handle of a topic. It lives as long as the client: a new one would wait a second for its metadata.
    func topic(_ name: String) throws(KafkaError) -> OpaquePointer {
        lock.lock()
        defer { lock.unlock() }
        if let known = unsafe topics[name] { return unsafe known }
        guard let made = unsafe rd_kafka_topic_new(handle, name, nil) else {
            throw KafkaError("topic \(name)", code: rd_kafka_last_error())
        }
        unsafe topics[name] = unsafe made
        return unsafe made
    }

    /// A topic's number of partitions, waiting for a topic that was made a moment ago: a broker hears of it later than the one that made it.
    func partitions(of topic: String, waitingSeconds: Double) throws(KafkaError) -> Int? {
        let deadline = Date(timeIntervalSinceNow: waitingSeconds)
        while true {
            let found = try partitions(of: topic)
            guard found == nil, Date() < deadline else { return found }
            Thread.sleep(forTimeInterval: 0.05)
        }
    }

    /// A topic's number of partitions, asked of the brokers; `nil` where it is not there.
    func partitions(of topic: String) throws(KafkaError) -> Int? {
        let local = try unsafe self.topic(topic)
        var metadata: UnsafePointer<rd_kafka_metadata>?
        let code = unsafe rd_kafka_metadata(handle, 0, local, &metadata, 10_000)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR, let metadata = unsafe metadata else {
            throw failure("metadata of \(topic)", code)
        }
        defer { unsafe rd_kafka_metadata_destroy(metadata) }
        guard unsafe metadata.pointee.topic_cnt == 1 else { return nil }
        let found = unsafe metadata.pointee.topics[0]
        if unsafe found.err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART { return nil }
        guard unsafe found.err == RD_KAFKA_RESP_ERR_NO_ERROR else {
            throw KafkaError("metadata of \(topic)", code: unsafe found.err)
        }
        return unsafe Int(found.partition_cnt)
    }
}

/// What a client's callbacks reach. It lives as long as its client.
///
/// `@unchecked Sendable`: guarded by the lock; `membership` and `log` are set before the client is made.
@safe final class ClientHooks: @unchecked Sendable {
    var membership: MembershipBox?
    var log: Log?
    private let limiter = LogLimiter(intervalMicroseconds: 1_000_000)
    private let lock = NSLock()
    private var said: String?

    /// What the library said last.
    var lastMessage: String? { lock.withLock { said } }

    fileprivate func note(_ text: String) {
        lock.withLock { said = text }
        limiter.limited(now: SystemClock().now) { suppressed in
            log?.warning("kafka", ["says": text, "suppressed": suppressed])
        }
    }
}

private func hooks(_ handle: OpaquePointer?) -> ClientHooks? {
    guard let handle = unsafe handle, let opaque = unsafe rd_kafka_opaque(handle) else { return nil }
    return unsafe Unmanaged<ClientHooks>.fromOpaque(opaque).takeUnretainedValue()
}

private func logged(
    _ handle: OpaquePointer?, _ level: Int32, _ facility: UnsafePointer<CChar>?, _ text: UnsafePointer<CChar>?
) {
    guard level <= 4, let text = unsafe text else { return }
    unsafe hooks(handle)?.note(String(cString: text))
}

private func failed(
    _ handle: OpaquePointer?, _ code: Int32, _ reason: UnsafePointer<CChar>?, _ opaque: UnsafeMutableRawPointer?
) {
    guard let reason = unsafe reason else { return }
    unsafe hooks(handle)?.note(String(cString: reason))
}

private func delivered(
    _ handle: OpaquePointer?, _ message: UnsafePointer<rd_kafka_message_t>?, _ opaque: UnsafeMutableRawPointer?
) {
    // A transaction's commit tells of its own messages; behind an ingest's message a request waits.
    guard let message = unsafe message, let report = unsafe message.pointee._private else { return }
    let delivery = unsafe Unmanaged<Delivery>.fromOpaque(report).takeRetainedValue()
    unsafe delivery.done(
        partition: Int(message.pointee.partition), offset: message.pointee.offset, code: message.pointee.err)
}

private func rebalanced(
    _ handle: OpaquePointer?, _ code: rd_kafka_resp_err_t,
    _ partitions: UnsafeMutablePointer<rd_kafka_topic_partition_list_t>?, _ opaque: UnsafeMutableRawPointer?
) {
    guard let handle = unsafe handle, let membership = unsafe hooks(handle)?.membership else { return }
    var numbers: [Int] = []
    if let list = unsafe partitions {
        for index in 0..<Int(unsafe list.pointee.cnt) {
            numbers.append(unsafe Int(list.pointee.elems[index].partition))
        }
    }
    if code == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
        membership.assigned(numbers)
        // The group says who owns a partition; events are fetched by a reader that begins where the changelog ends.
        let none = unsafe rd_kafka_topic_partition_list_new(0)
        unsafe rd_kafka_assign(handle, none)
        unsafe rd_kafka_topic_partition_list_destroy(none)
    } else {
        membership.revoked()
        unsafe rd_kafka_assign(handle, nil)
    }
}
