internal import CRdkafka
internal import Foundation
internal import Synchronization
import Changes
import Core
import Service

/// Puts events into the input topic: idempotent, acknowledged by all replicas in sync.
final class KafkaIngest: Sendable {
    private let configuration: KafkaConfiguration
    private let log: Log
    private let current: Mutex<Sender>

    init(_ configuration: KafkaConfiguration, log: Log) throws(KafkaError) {
        self.configuration = configuration
        self.log = log
        current = Mutex(try Sender(configuration, log))
    }

    /// Queues events; `acknowledged` is called on the client's thread when all brokers in sync have them.
    ///
    /// Fails at once where the queue is full, as when the brokers are away: some of the events may be taken then, and
    /// sending all of them again is safe, since duplicates are dropped by id.
    func append(
        _ request: borrowing AppendRequest,
        acknowledged: @escaping @Sendable (Result<[Int: UInt64], any Error>) -> Void
    ) throws {
        let sender = try current.withLock { sender in
            // A client that has lost its count, as after a broker that forgot, is of no use any more.
            if let reason = sender.fatalError {
                log.warning("the ingest's client is made anew", ["because": reason])
                sender = try Sender(configuration, log)
            }
            return sender
        }
        try sender.append(request, acknowledged: acknowledged)
    }

    /// For tests: what a broker's answer does to an idempotent client.
    func failForGood() { current.withLock { $0.failForGood() } }
}

/// One client that puts events into the input topic.
///
/// `@unchecked Sendable`: the client is thread-safe; the rest does not change.
@safe private final class Sender: @unchecked Sendable {
    private let client: KafkaClient
    private let topicName: String
    private let topic: OpaquePointer
    private let stopping = StopSignal()

    init(_ configuration: KafkaConfiguration, _ log: Log) throws(KafkaError) {
        let hooks = ClientHooks()
        hooks.log = log
        let client = try KafkaClient(.producer, configuration.ingesting(), hooks: hooks)
        self.client = client
        topicName = configuration.input
        unsafe topic = try unsafe client.topic(configuration.input)
        let stopping = stopping
        let poller = Thread {
            while !stopping.isStopped { unsafe rd_kafka_poll(client.handle, 100) }
        }
        poller.name = "kafka-ingest"
        poller.start()
    }

    deinit { stopping.stop() }

    func failForGood() {
        unsafe rd_kafka_test_fatal_error(client.handle, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER, "a test")
    }

    /// Why nothing can be sent any more.
    var fatalError: String? {
        var text = [CChar](repeating: 0, count: 512)
        guard unsafe rd_kafka_fatal_error(client.handle, &text, text.count) != RD_KAFKA_RESP_ERR_NO_ERROR else {
            return nil
        }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

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
