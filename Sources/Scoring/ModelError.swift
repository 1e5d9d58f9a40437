/// Why a model is refused, or a row can't be scored: what was found, and what to do about it.
package struct ModelError: Error, Sendable, Equatable, CustomStringConvertible {
    package enum Code: String, Sendable {
        /// The file can't be read, or is no model file at all.
        case unreadable
        /// The file says what it is, but its syntax is broken.
        case malformed
        /// A model that we know by name and don't evaluate.
        case unsupported
        /// The trees contradict themselves.
        case structure
        /// Features can't be bound by name.
        case features
        /// Golden rows don't come out as recorded.
        case golden
    }

    package let code: Code
    /// What was found, with its place.
    package let reason: String
    /// What the owner of the file can do; empty where nothing helps but another file.
    package let remedy: String

    package init(_ code: Code, _ reason: String, remedy: String = "") {
        self.code = code
        self.reason = reason
        self.remedy = remedy
    }

    package var description: String { remedy.isEmpty ? reason : "\(reason); \(remedy)" }
}
