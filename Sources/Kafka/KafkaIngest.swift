internal import CRdkafka
internal import Foundation
import Changes
import Core
import Service

/// Puts events into the input topic: idempotent, acknowledged by all replicas in sync.
///
/// `@unchecked Sendable`: the client is thread-safe; the rest does not change.
@safe final class KafkaIngest: @unchecked Sendable {
    private let client: KafkaClient
    private let topicName: String
    private let topic: OpaquePointer
    private let poller: Thread
    private let stopping = StopSignal()

    init(_ configuration: KafkaConfiguration, log: Log) throws(KafkaError) {
        let hooks = ClientHooks()
        hooks.log = log
        let client = try KafkaClient(.producer, configuration.ingesting(), hooks: hooks)
        self.client = client
        topicName = configuration.input
        unsafe topic = try unsafe client.topic(configuration.input)
        let stopping = stopping
        poller = Thread {
            while !stopping.isStopped { unsafe rd_kafka_poll(client.handle, 100) }
        }
        poller.name = "kafka-ingest"
        poller.start()
    }

    deinit { stopping.stop() }

    /// Returns each partition's end after the events, when they are acknowledged.
    func append(_ request: borrowing AppendRequest) throws -> [Int: UInt64] {
        let delivery = Delivery(expected: request.count)
        unsafe try request.forEach { partition, event in
            // The library keeps one reference a message, and gives it back with the report.
            let reference = unsafe Unmanaged.passRetained(delivery)
            while true {
                let code = unsafe rd_kafka_produce(
                    topic, Int32(partition), Int32(RD_KAFKA_MSG_F_COPY),
                    UnsafeMutableRawPointer(mutating: event.baseAddress),
                    event.count, nil, 0, reference.toOpaque())
                if code == 0 { break }
                let reason = rd_kafka_last_error()
                guard reason == RD_KAFKA_RESP_ERR__QUEUE_FULL else {
                    unsafe reference.release()
                    throw KafkaError("produce to \(topicName)", code: reason)
                }
                Thread.sleep(forTimeInterval: 0.002)
            }
        }
        return try delivery.wait(seconds: 20)
    }
}

/// One request's messages on their way.
///
/// `@unchecked Sendable`: guarded by the condition.
@safe final class Delivery: @unchecked Sendable {
    private let condition = NSCondition()
    private var open: Int
    private var ends: [Int: UInt64] = [:]
    private var failure: KafkaError?

    init(expected: Int) { open = expected }

    func done(partition: Int, offset: Int64, code: rd_kafka_resp_err_t) {
        condition.lock()
        open -= 1
        if code == RD_KAFKA_RESP_ERR_NO_ERROR {
            ends[partition] = max(ends[partition] ?? 0, UInt64(max(0, offset)) + 1)
        } else if failure == nil {
            failure = KafkaError("produce", code: code)
        }
        if open == 0 { condition.broadcast() }
        condition.unlock()
    }

    func wait(seconds: Double) throws -> [Int: UInt64] {
        let deadline = Date(timeIntervalSinceNow: seconds)
        condition.lock()
        defer { condition.unlock() }
        while open > 0 {
            guard condition.wait(until: deadline) else {
                throw KafkaError("produce", code: RD_KAFKA_RESP_ERR__TIMED_OUT)
            }
        }
        if let failure { throw failure }
        return ends
    }
}
