/// The header lines of an answer, rendered once: `Name: value CRLF Name: value`.
///
/// A block that many answers share is made once and copied by reference; a block of one request can be had from
/// `Request.makeHeaders()`, whose storage the connection uses again. Control characters in a value become spaces, so
/// no value can start another line. `Connection`, `Date`, `Content-Length`, `Content-Type` and `Transfer-Encoding` are
/// the server's own and trap.
package struct HeaderBlock: Sendable, ExpressibleByDictionaryLiteral {
    package private(set) var bytes: [UInt8] = []
    let recycles: Bool

    package init() { recycles = false }

    package init(dictionaryLiteral elements: (StaticString, String)...) {
        recycles = false
        for (name, value) in elements { append(name, value) }
    }

    init(recycling storage: consuming [UInt8]) {
        bytes = storage
        recycles = true
    }

    package var isEmpty: Bool { bytes.isEmpty }

    @_disfavoredOverload
    package mutating func append(_ name: StaticString, _ value: String) {
        open(name)
        for byte in value.utf8 { appendClean(byte) }
    }

    package mutating func append(_ name: StaticString, _ value: StaticString) {
        open(name)
        bytes.append(text: value)
    }

    package mutating func append(_ name: StaticString, _ value: Int64) {
        open(name)
        if value < 0 { bytes.append(UInt8(ascii: "-")) }
        bytes.append(decimal: value.magnitude)
    }

    package mutating func append(_ name: StaticString, _ value: Int) { append(name, Int64(value)) }

    /// Appends a value given as bytes.
    package mutating func append(_ name: StaticString, bytes value: some Sequence<UInt8>) {
        open(name)
        for byte in value { appendClean(byte) }
    }

    /// Appends `0:a,1:b,…`.
    package mutating func append(_ name: StaticString, numbered values: some Sequence<UInt64>) {
        open(name)
        for (place, value) in values.enumerated() {
            if place > 0 { bytes.append(UInt8(ascii: ",")) }
            bytes.append(decimal: UInt64(place))
            bytes.append(UInt8(ascii: ":"))
            bytes.append(decimal: value)
        }
    }

    package mutating func append(contentsOf other: HeaderBlock) {
        if other.bytes.isEmpty { return }
        if !bytes.isEmpty { bytes.append(text: "\r\n") }
        bytes.append(contentsOf: other.bytes)
    }

    private mutating func open(_ name: StaticString) {
        assert(!Self.isReserved(name.description), "the server writes \(name) itself")
        if !bytes.isEmpty { bytes.append(text: "\r\n") }
        bytes.append(text: name)
        bytes.append(UInt8(ascii: ":"))
        bytes.append(0x20)
    }

    private mutating func appendClean(_ byte: UInt8) {
        bytes.append(byte < 0x20 || byte == 0x7F ? 0x20 : byte)
    }

    private static func isReserved(_ name: String) -> Bool {
        ["connection", "date", "content-length", "content-type", "transfer-encoding"].contains(name.lowercased())
    }
}
