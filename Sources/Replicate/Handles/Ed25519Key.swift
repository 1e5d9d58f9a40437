internal import COpenSSL

/// One key of OpenSSL, private or public.
///
/// `@unchecked Sendable`: a key is never changed after `init`, and OpenSSL lets several threads use one that is not
/// changed (openssl-threads(7), EVP_PKEY).
@safe final class Ed25519Key: @unchecked Sendable {
    private let handle: OpaquePointer
    static let pemBytesMax = 16 << 10

    /// A new private key.
    init() throws {
        guard let context = unsafe EVP_PKEY_CTX_new_id(EVP_PKEY_ED25519, nil) else {
            throw Self.failure("make a key", "")
        }
        defer { unsafe EVP_PKEY_CTX_free(context) }
        var made: OpaquePointer?
        guard unsafe EVP_PKEY_keygen_init(context) == 1, unsafe EVP_PKEY_keygen(context, &made) == 1,
            let made = unsafe made
        else { throw Self.failure("make a key", "") }
        unsafe handle = unsafe made
    }

    convenience init(privatePEM pem: [UInt8], path: String) throws {
        try unsafe self.init(pem, "load the signing key", path, hint: "an Ed25519 private key in PEM") {
            // A key under a passphrase is refused: nobody is there to type one.
            unsafe PEM_read_bio_PrivateKey($0, nil, { _, _, _, _ in -1 }, nil)
        }
    }

    convenience init(publicPEM pem: [UInt8], path: String) throws {
        try unsafe self.init(pem, "load the trusted key", path, hint: "an Ed25519 public key in PEM") {
            unsafe PEM_read_bio_PUBKEY($0, nil, { _, _, _, _ in -1 }, nil)
        }
    }

    private init(
        _ pem: [UInt8], _ operation: String, _ path: String, hint: String,
        _ read: (OpaquePointer) -> OpaquePointer?
    ) throws {
        guard let memory = unsafe BIO_new_mem_buf(pem, Int32(pem.count)) else { throw Self.failure(operation, path) }
        defer { unsafe BIO_free(memory) }
        let found = unsafe read(memory)
        ERR_clear_error()
        guard let found = unsafe found else { throw SnapshotFileError(operation, path, "it is not \(hint)") }
        guard unsafe EVP_PKEY_get_base_id(found) == EVP_PKEY_ED25519 else {
            unsafe EVP_PKEY_free(found)
            throw SnapshotFileError(operation, path, "it is not \(hint), but of another kind")
        }
        unsafe handle = unsafe found
    }

    deinit { unsafe EVP_PKEY_free(handle) }

    /// The first 8 bytes of the SHA-256 of the raw public key, in hexadecimal.
    var id: String {
        get throws {
            var raw = [UInt8](repeating: 0, count: 32)
            var count = raw.count
            guard unsafe EVP_PKEY_get_raw_public_key(handle, &raw, &count) == 1, count == 32 else {
                throw Self.failure("read a public key", "")
            }
            return String(try SHA256.hex(of: raw).prefix(16))
        }
    }

    func sign(_ bytes: [UInt8]) throws -> [UInt8] {
        guard let context = unsafe EVP_MD_CTX_new() else { throw Self.failure("sign", "") }
        defer { unsafe EVP_MD_CTX_free(context) }
        var signature = [UInt8](repeating: 0, count: 64)
        var count = signature.count
        guard unsafe EVP_DigestSignInit(context, nil, nil, nil, handle) == 1,
            unsafe EVP_DigestSign(context, &signature, &count, bytes, bytes.count) == 1, count == 64
        else { throw Self.failure("sign", "") }
        return signature
    }

    func verifies(_ bytes: [UInt8], signature: [UInt8]) -> Bool {
        guard signature.count == 64, let context = unsafe EVP_MD_CTX_new() else { return false }
        defer {
            unsafe EVP_MD_CTX_free(context)
            ERR_clear_error()
        }
        return unsafe EVP_DigestVerifyInit(context, nil, nil, nil, handle) == 1
            && EVP_DigestVerify(context, signature, signature.count, bytes, bytes.count) == 1
    }

    func privatePEM() throws -> [UInt8] {
        try unsafe Self.pem { unsafe PEM_write_bio_PrivateKey($0, handle, nil, nil, 0, nil, nil) }
    }

    func publicPEM() throws -> [UInt8] { try unsafe Self.pem { unsafe PEM_write_bio_PUBKEY($0, handle) } }

    private static func pem(_ write: (OpaquePointer) -> Int32) throws -> [UInt8] {
        guard let memory = unsafe BIO_new(BIO_s_mem()) else { throw failure("write a key", "") }
        defer { unsafe BIO_free(memory) }
        guard unsafe write(memory) == 1 else { throw failure("write a key", "") }
        var bytes = [UInt8](repeating: 0, count: pemBytesMax)
        let count = unsafe BIO_read(memory, &bytes, Int32(bytes.count))
        guard count > 0 else { throw failure("write a key", "") }
        return Array(bytes.prefix(Int(count)))
    }

    /// OpenSSL's last reason; the thread's others are dropped.
    static func failure(_ operation: String, _ path: String) -> SnapshotFileError {
        var text = [CChar](repeating: 0, count: 256)
        unsafe ERR_error_string_n(ERR_get_error(), &text, text.count)
        ERR_clear_error()
        let reason = String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
        return SnapshotFileError(operation, path, reason)
    }
}
