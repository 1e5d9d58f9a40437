import Foundation
import Glibc

/// A socket to the server under test: bytes out, bytes in, nothing in between.
final class RawClient {
    private let descriptor: Int32

    init(port: UInt16) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        inet_pton(AF_INET, "127.0.0.1", &address.sin_addr)
        let result = withUnsafeBytes(of: &address) {
            connect(descriptor, $0.assumingMemoryBound(to: sockaddr.self).baseAddress, socklen_t($0.count))
        }
        if result != 0 {
            let code = errno
            close(descriptor)
            throw POSIXError(POSIXErrorCode(rawValue: code) ?? .EIO)
        }
        var limit = timeval(tv_sec: 10, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(descriptor) }

    /// Sends all of it; false when the other side has closed.
    @discardableResult
    func send(_ text: String) -> Bool { send(Array(text.utf8)) }

    @discardableResult
    func send(_ bytes: [UInt8]) -> Bool {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            if count <= 0 { return false }
            sent += count
        }
        return true
    }

    func receiveBuffer(bytes: Int32) {
        var bytes = bytes
        setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &bytes, socklen_t(MemoryLayout<Int32>.size))
    }

    /// Reads until the other side closes or nothing comes for ten seconds.
    func readToEnd() -> String {
        var all: [UInt8] = []
        while let bytes = readSome() { all += bytes }
        return String(decoding: all, as: UTF8.self)
    }

    /// Reads until the text is there, or the end.
    func read(until text: String) -> String {
        var all = ""
        while !all.contains(text), let bytes = readSome() { all += String(decoding: bytes, as: UTF8.self) }
        return all
    }

    func readSome() -> [UInt8]? {
        var buffer = [UInt8](repeating: 0, count: 16384)
        let count = recv(descriptor, &buffer, buffer.count, 0)
        return count > 0 ? Array(buffer[..<count]) : nil
    }

    /// Sends and reads one whole answer with its connection closed after it.
    static func exchange(_ port: UInt16, _ text: String) throws -> String {
        let client = try RawClient(port: port)
        client.send(text)
        return client.readToEnd()
    }
}

extension String {
    /// The status of an answer, 0 when there is none.
    var status: Int {
        guard hasPrefix("HTTP/1.1 ") else { return 0 }
        return Int(dropFirst(9).prefix(3)) ?? 0
    }
}
