/// RocksDB said no.
package struct StoreError: Error, CustomStringConvertible, Sendable {
    package let operation: String
    package let message: String

    package init(operation: String, message: String) {
        self.operation = operation
        self.message = message
    }

    package var description: String { "\(operation): \(message)" }

    /// Another process has the store open for writing.
    package var isLocked: Bool { message.contains("LOCK") || message.contains("lock ") }
}
