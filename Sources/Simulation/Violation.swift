/// Something that must never happen has happened.
package struct Violation: Error, CustomStringConvertible, Sendable {
    package let description: String

    init(_ description: String) { self.description = description }
}
