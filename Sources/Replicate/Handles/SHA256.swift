internal import COpenSSL
internal import Glibc

/// SHA-256 of bytes that come in pieces. One thread uses it.
@safe package final class SHA256 {
    private let context: OpaquePointer

    package init() throws {
        guard let context = unsafe EVP_MD_CTX_new() else { throw Ed25519Key.failure("hash", "") }
        unsafe self.context = unsafe context
        guard unsafe EVP_DigestInit_ex(context, EVP_sha256(), nil) == 1 else { throw Ed25519Key.failure("hash", "") }
    }

    deinit { unsafe EVP_MD_CTX_free(context) }

    package func update(_ bytes: UnsafeRawBufferPointer) throws {
        guard unsafe EVP_DigestUpdate(context, bytes.baseAddress, bytes.count) == 1 else {
            throw Ed25519Key.failure("hash", "")
        }
    }

    /// 64 lower-case hexadecimal digits. Nothing may follow it.
    package func finish() throws -> String {
        var digest = [UInt8](repeating: 0, count: 32)
        var count: UInt32 = 0
        guard unsafe EVP_DigestFinal_ex(context, &digest, &count) == 1, count == 32 else {
            throw Ed25519Key.failure("hash", "")
        }
        return digest.hexadecimal
    }

    package static func hex(of bytes: [UInt8]) throws -> String {
        let hash = try SHA256()
        try unsafe bytes.withUnsafeBytes { try unsafe hash.update($0) }
        return try hash.finish()
    }

    /// Reads the whole file, 1 MiB at a time. Blocking; errors name the path.
    package static func hex(ofFileAt path: String) throws -> String { try digest(ofFileAt: path).hex }

    /// The hash and how many bytes went into it.
    static func digest(ofFileAt path: String) throws -> (hex: String, bytes: Int) {
        let file = try FileDescriptor(reading: path)
        let hash = try SHA256()
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        var bytes = 0
        while true {
            let count = try unsafe buffer.withUnsafeMutableBytes { try unsafe file.read(into: $0) }
            guard count > 0 else { return (try hash.finish(), bytes) }
            bytes += count
            try unsafe buffer.withUnsafeBytes { try unsafe hash.update(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
        }
    }
}
