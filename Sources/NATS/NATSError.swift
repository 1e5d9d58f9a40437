internal import CNATS

/// The NATS client or server said no.
package struct NATSError: Error, CustomStringConvertible, Sendable {
    package let operation: String
    package let status: Int
    package let text: String

    init(_ operation: String, _ status: natsStatus) {
        self.operation = operation
        self.status = Int(status.rawValue)
        let name = unsafe String(cString: natsStatus_GetText(status))
        // The library keeps the reason beside the status, a thread its own: a server's refusal is there alone.
        var last = NATS_OK
        let reason = unsafe nats_GetLastError(&last).map { unsafe String(cString: $0) } ?? ""
        text = last == status && !reason.isEmpty && reason != name ? "\(name): \(reason)" : name
    }

    package var description: String { "\(operation): \(text)" }

    static func check(_ operation: String, _ status: natsStatus) throws(NATSError) {
        guard status == NATS_OK else { throw NATSError(operation, status) }
    }
}
