import Glibc

/// The request methods that a route can have.
package enum Method: UInt8, Sendable, CaseIterable {
    case get, head, post, put, patch, delete, options, other

    package var name: String {
        switch self {
        case .get: "GET"
        case .head: "HEAD"
        case .post: "POST"
        case .put: "PUT"
        case .patch: "PATCH"
        case .delete: "DELETE"
        case .options: "OPTIONS"
        case .other: "OTHER"
        }
    }

    init(_ text: UnsafePointer<CChar>) {
        let bytes = unsafe UnsafeBufferPointer(start: text, count: strlen(text))
        self = .other
        for method in Method.allCases where method != .other {
            if unsafe method.token.isEqual(bytes) {
                self = method
                return
            }
        }
    }

    private var token: StaticString {
        switch self {
        case .get: "GET"
        case .head: "HEAD"
        case .post: "POST"
        case .put: "PUT"
        case .patch: "PATCH"
        case .delete: "DELETE"
        case .options: "OPTIONS"
        case .other: "OTHER"
        }
    }
}

extension StaticString {
    func isEqual(_ other: UnsafeBufferPointer<CChar>) -> Bool {
        guard utf8CodeUnitCount == other.count, let base = other.baseAddress else { return false }
        return unsafe memcmp(utf8Start, base, other.count) == 0
    }
}
