/// RocksDB said no.
package struct StoreError: Error, CustomStringConvertible, Sendable {
    package let operation: String
    package let message: String

    package var description: String { "\(operation): \(message)" }

    /// Another process has the store open for writing.
    package var isLocked: Bool { message.contains("LOCK") || message.contains("lock ") }
}
