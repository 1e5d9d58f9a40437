internal import CNATS

/// The NATS client or server said no.
package struct NATSError: Error, CustomStringConvertible, Sendable {
    package let operation: String
    package let status: Int
    package let text: String

    init(_ operation: String, _ status: natsStatus) {
        self.operation = operation
        self.status = Int(status.rawValue)
        text = unsafe String(cString: natsStatus_GetText(status))
    }

    package var description: String { "\(operation): \(text)" }

    static func check(_ operation: String, _ status: natsStatus) throws(NATSError) {
        guard status == NATS_OK else { throw NATSError(operation, status) }
    }
}
