import Foundation
import Glibc

/// Microseconds since 1970.
@Sendable func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Double(time.tv_sec) * 1e6 + Double(time.tv_nsec) / 1e3
}

/// One kept connection to 127.0.0.1.
final class Connection {
    private let port: UInt16
    private var descriptor: Int32 = -1
    private var buffer = [UInt8](repeating: 0, count: 1 << 20)

    init(port: UInt16) { self.port = port }

    private func open() -> Bool {
        if descriptor >= 0 { return true }
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var one: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
        var limit = timeval(tv_sec: 5, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let done = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        if done != 0 { drop() }
        return done == 0
    }

    private func drop() {
        close(descriptor)
        descriptor = -1
    }

    /// The answer's status; 0 where none came.
    func ask(_ request: [UInt8]) -> Int {
        guard open() else { return 0 }
        guard write(descriptor, request, request.count) == request.count else {
            drop()
            return 0
        }
        var count = 0
        while true {
            let got = buffer.withUnsafeMutableBytes { read(descriptor, $0.baseAddress! + count, $0.count - count) }
            guard got > 0 else {
                drop()
                return 0
            }
            count += got
            if let status = status(count) { return status }
        }
    }

    /// The status once head and body are here. Method: `Content-Length`, which our servers always send in this spelling. No
    /// strings are made: what asks shares the machine with what answers.
    private func status(_ count: Int) -> Int? {
        buffer.withUnsafeBytes { bytes in
            var length: Int?
            var line = 0
            while let end = memchr(bytes.baseAddress! + line, 10, count - line) {
                let next = UnsafeRawPointer(end) - bytes.baseAddress! + 1
                if next - line == 2 {
                    guard let length else { return 0 }
                    return count >= next + length ? Self.number(bytes["HTTP/1.1 ".utf8.count..<next]) : nil
                }
                if bytes[line..<next].starts(with: Self.lengthName) {
                    length = Self.number(bytes[(line + Self.lengthName.count)..<next])
                }
                line = next
            }
            return nil
        }
    }

    private static let lengthName = Array("Content-Length: ".utf8)

    private static func number(_ digits: Slice<UnsafeRawBufferPointer>) -> Int {
        digits.prefix { (48...57).contains($0) }.reduce(0) { $0 * 10 + Int($1 - 48) }
    }
}
