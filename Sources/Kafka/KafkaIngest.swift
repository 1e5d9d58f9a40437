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

    /// Queues events; `acknowledged` is called on the client's thread when all brokers in sync have them.
    ///
    /// Fails at once where the queue is full, as when the brokers are away: some of the events may be taken then, and
    /// sending all of them again is safe, since duplicates are dropped by id.
    func append(
        _ request: borrowing AppendRequest,
        acknowledged: @escaping @Sendable (Result<[Int: UInt64], any Error>) -> Void
    ) throws {
        let delivery = Delivery(expected: request.count, acknowledged)
        unsafe try request.forEach { partition, event in
            // The library keeps one reference a message, and gives it back with the report.
            let reference = unsafe Unmanaged.passRetained(delivery)
            let code = unsafe rd_kafka_produce(
                topic, Int32(partition), Int32(RD_KAFKA_MSG_F_COPY),
                UnsafeMutableRawPointer(mutating: event.baseAddress),
                event.count, nil, 0, reference.toOpaque())
            guard code == 0 else {
                let reason = rd_kafka_last_error()
                unsafe reference.release()
                delivery.abandon()
                throw reason == RD_KAFKA_RESP_ERR__QUEUE_FULL
                    ? LogBusy("the brokers take events slower than they come, or are away")
                    : KafkaError("produce to \(topicName)", code: reason)
            }
        }
    }
}

/// One request's messages on their way.
///
/// `@unchecked Sendable`: guarded by the lock.
@safe final class Delivery: @unchecked Sendable {
    private let lock = NSLock()
    private var open: Int
    private var ends: [Int: UInt64] = [:]
    private var failure: KafkaError?

    private var acknowledged: (@Sendable (Result<[Int: UInt64], any Error>) -> Void)?

    init(expected: Int, _ acknowledged: @escaping @Sendable (Result<[Int: UInt64], any Error>) -> Void) {
        open = expected
        self.acknowledged = acknowledged
    }

    /// Nobody waits any more.
    func abandon() { lock.withLock { acknowledged = nil } }

    func done(partition: Int, offset: Int64, code: rd_kafka_resp_err_t) {
        let call: (() -> Void)? = lock.withLock {
            open -= 1
            if code == RD_KAFKA_RESP_ERR_NO_ERROR {
                ends[partition] = max(ends[partition] ?? 0, UInt64(max(0, offset)) + 1)
            } else if failure == nil {
                failure = KafkaError("produce", code: code)
            }
            guard open == 0, let acknowledged else { return nil }
            let result: Result<[Int: UInt64], any Error> = failure.map { .failure($0) } ?? .success(ends)
            return { acknowledged(result) }
        }
        call?()
    }
}
