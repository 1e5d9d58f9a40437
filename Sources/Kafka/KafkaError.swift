internal import CRdkafka
import Transactions

/// The Kafka client or a broker said no, and what that means for whoever asked.
package struct KafkaError: TransactionFailure, Sendable {
    package let operation: String
    package let code: Int32
    package let text: String
    /// The same call with the same arguments may succeed.
    package let isRetriable: Bool
    /// The transaction cannot be committed any more: it is to be aborted.
    package let isAbortable: Bool
    /// The client is of no use any more.
    package let isFatal: Bool

    init(_ operation: String, code: rd_kafka_resp_err_t, _ text: String? = nil) {
        self.operation = operation
        self.code = code.rawValue
        self.text = unsafe text ?? String(cString: rd_kafka_err2str(code))
        isRetriable = Self.passing.contains { $0 == code }
        isAbortable = false
        isFatal = false
    }

    /// What passes by itself when the brokers have found each other again.
    private static let passing = [
        RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, RD_KAFKA_RESP_ERR__TIMED_OUT,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE,
        RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE, RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
        RD_KAFKA_RESP_ERR_NOT_COORDINATOR, RD_KAFKA_RESP_ERR__WAIT_COORD, RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION,
        RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE, RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH,
        RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH,
    ]

    /// Takes over a C error, and destroys it.
    init(_ operation: String, consuming error: OpaquePointer) {
        self.operation = operation
        code = unsafe rd_kafka_error_code(error).rawValue
        text = unsafe String(cString: rd_kafka_error_string(error))
        isRetriable = unsafe rd_kafka_error_is_retriable(error) != 0
        isAbortable = unsafe rd_kafka_error_txn_requires_abort(error) != 0
        isFatal = unsafe rd_kafka_error_is_fatal(error) != 0
        unsafe rd_kafka_error_destroy(error)
    }

    /// Another holder of the transactional id, or of the group's instance id, has come after us.
    package var isFenced: Bool {
        [
            RD_KAFKA_RESP_ERR__FENCED, RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, RD_KAFKA_RESP_ERR_PRODUCER_FENCED,
            RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID,
        ].contains { $0.rawValue == code }
    }

    package var isTimeout: Bool { code == RD_KAFKA_RESP_ERR__TIMED_OUT.rawValue }

    package var description: String { "\(operation): \(text)" }
}

/// What is wrong with how a log stands in Kafka, with its remedy.
package enum KafkaLogError: Error, CustomStringConvertible, Equatable {
    case missingTopic(String)
    case partitionsDiffer(topic: String, have: Int, want: Int)
    case corrupt(String)
    case noEnd(topic: String, partition: Int)
    case notEmpty(String)
    case unfinishedImport(partition: Int, have: UInt64, want: UInt64)

    package var description: String {
        switch self {
        case .missingTopic(let topic):
            "topic \(topic) is not there: `tideline topics create` makes it, `tideline topics plan` says what to ask for"
        case .partitionsDiffer(let topic, let have, let want):
            "topic \(topic) has \(have) partitions where the input has \(want): an event's partition is fixed, so begin a "
                + "new pipeline name for the larger input, or take the added partitions back"
        case .corrupt(let what): "the log holds \(what) that cannot be read"
        case .notEmpty(let topic):
            "topic \(topic) holds something already, and a log is taken in as a whole: take another pipeline name and input "
                + "topic, or delete its topics, and import again"
        case .unfinishedImport(let partition, let have, let want):
            "the import into this log is not finished: partition \(partition) has \(have) of \(want) batches. If none runs "
                + "any more, delete its topics, or take another pipeline name and input topic, and import again"
        case .noEnd(let topic, let partition): "\(topic) [\(partition)] does not say where it ends"
        }
    }
}
