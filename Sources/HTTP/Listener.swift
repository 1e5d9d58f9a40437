import CMicroHTTPD  // the module in which Swift finds `SOCK_CLOEXEC`
import Glibc

/// Makes the listening socket.
enum Listener {
    /// Fails when somebody listens on the port already.
    static func open(address: String, port: UInt16, backlog: Int32 = 4096) throws(HTTPServerError) -> Int32 {
        let descriptor = try bound(address: address, port: port)
        guard listen(descriptor, backlog) == 0 else { throw fail("listen", descriptor) }
        return descriptor
    }

    private static func bound(address: String, port: UInt16) throws(HTTPServerError) -> Int32 {
        var v4 = sockaddr_in()
        var v6 = sockaddr_in6()
        let family: Int32
        if unsafe inet_pton(AF_INET, address, &v4.sin_addr) == 1 {
            family = AF_INET
            v4.sin_family = sa_family_t(AF_INET)
            v4.sin_port = port.bigEndian
        } else if unsafe inet_pton(AF_INET6, address, &v6.sin6_addr) == 1 {
            family = AF_INET6
            v6.sin6_family = sa_family_t(AF_INET6)
            v6.sin6_port = port.bigEndian
        } else {
            throw .address(address)
        }
        let descriptor = socket(family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw .socket(call: "socket", code: errno) }
        var on: Int32 = 1
        let size = socklen_t(MemoryLayout<Int32>.size)
        _ = unsafe setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, size)
        let bound: Int32
        if family == AF_INET {
            bound = unsafe withUnsafeBytes(of: &v4) { bytes in
                unsafe bind(
                    descriptor, bytes.assumingMemoryBound(to: sockaddr.self).baseAddress, socklen_t(bytes.count))
            }
        } else {
            _ = unsafe setsockopt(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, &on, size)
            bound = unsafe withUnsafeBytes(of: &v6) { bytes in
                unsafe bind(
                    descriptor, bytes.assumingMemoryBound(to: sockaddr.self).baseAddress, socklen_t(bytes.count))
            }
        }
        guard bound == 0 else { throw fail("bind", descriptor) }
        return descriptor
    }

    static func port(of descriptor: Int32) -> UInt16 {
        var storage = sockaddr_storage()
        var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
        return unsafe withUnsafeMutableBytes(of: &storage) { bytes in
            guard let base = bytes.baseAddress,
                unsafe getsockname(descriptor, base.assumingMemoryBound(to: sockaddr.self), &size) == 0
            else { return 0 }
            // The port stands at the same place in both families.
            return unsafe UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
        }
    }

    private static func fail(_ call: String, _ descriptor: Int32) -> HTTPServerError {
        let code = errno
        close(descriptor)
        return .socket(call: call, code: code)
    }
}
