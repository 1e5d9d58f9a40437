internal import CRdkafka

/// A producer with a transactional id. One transaction at a time; the calls block.
///
/// `@unchecked Sendable`: one thread at a time uses it, the one that commits the partition.
@safe final class TransactionalProducer: @unchecked Sendable {
    private let client: KafkaClient
    private let hooks: ClientHooks
    private var messages: [rd_kafka_message_t] = unsafe []

    init(_ properties: [String: String], hooks: ClientHooks) throws(KafkaError) {
        client = try KafkaClient(.producer, properties, hooks: hooks)
        self.hooks = hooks
    }

    private func check(_ operation: String, _ error: OpaquePointer?) throws(KafkaError) {
        if let error = unsafe error { throw unsafe KafkaError(operation, consuming: error) }
    }

    /// Aborts what an older holder of the id has left open, or waits until it stands, and fences the holder.
    func initialize(milliseconds: Int32) throws(KafkaError) {
        try unsafe check("init_transactions", rd_kafka_init_transactions(client.handle, milliseconds))
    }

    func begin() throws(KafkaError) { try unsafe check("begin", rd_kafka_begin_transaction(client.handle)) }

    /// Flushes and commits. An error that is retriable may be followed by the same call.
    func commit(milliseconds: Int32) throws(KafkaError) {
        try unsafe check("commit", rd_kafka_commit_transaction(client.handle, milliseconds))
    }

    /// Waits until all that was produced is acknowledged, where there is no transaction.
    func flush(milliseconds: Int32) throws(KafkaError) {
        let code = unsafe rd_kafka_flush(client.handle, milliseconds)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw KafkaError("flush", code: code) }
    }

    func abort(milliseconds: Int32) throws(KafkaError) {
        try unsafe check("abort", rd_kafka_abort_transaction(client.handle, milliseconds))
    }

    /// Asks for a topic's metadata, so that the first transaction does not wait for it.
    func warm(_ topic: String) throws(KafkaError) { _ = try client.partitions(of: topic) }

    /// Queues one message that stays where it is until the transaction ends.
    func produce(
        _ name: String, _ partition: Int, key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer
    ) throws(KafkaError) {
        let target = try unsafe client.topic(name)
        let code = unsafe rd_kafka_produce(
            target, Int32(partition), 0, UnsafeMutableRawPointer(mutating: value.baseAddress), value.count,
            key.baseAddress, key.count, nil)
        guard code == 0 else { throw KafkaError("produce to \(name)", code: rd_kafka_last_error()) }
    }

    /// Queues many messages of one partition. `message` gives each one's key and value, which stay where they are until
    /// the transaction ends.
    func produce(
        _ name: String, _ partition: Int, count: Int,
        _ message: (Int) -> (key: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer)
    ) throws(KafkaError) {
        unsafe messages.removeAll(keepingCapacity: true)
        for index in 0..<count {
            let (key, value) = unsafe message(index)
            var item = unsafe rd_kafka_message_t()
            unsafe item.payload = UnsafeMutableRawPointer(mutating: value.baseAddress)
            unsafe item.len = value.count
            unsafe item.key = UnsafeMutableRawPointer(mutating: key.baseAddress)
            unsafe item.key_len = key.count
            unsafe item.partition = Int32(partition)
            unsafe messages.append(item)
        }
        let target = try unsafe client.topic(name)
        let queued = unsafe rd_kafka_produce_batch(target, Int32(partition), 0, &messages, Int32(count))
        guard queued == count else {
            let refused = unsafe messages.first { unsafe $0.err != RD_KAFKA_RESP_ERR_NO_ERROR }
            throw KafkaError("produce to \(name)", code: unsafe refused?.err ?? RD_KAFKA_RESP_ERR__FAIL)
        }
    }
}
