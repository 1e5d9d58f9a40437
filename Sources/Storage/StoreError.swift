/// RocksDB said no.
package struct StoreError: Error, CustomStringConvertible, Sendable {
    package let operation: String
    package let message: String

    package init(operation: String, message: String) {
        self.operation = operation
        self.message = message
    }

    package var description: String { "\(operation): \(message)" }
}
