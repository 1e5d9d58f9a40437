/// The private half of a pair of Ed25519 keys: it signs manifests. Whoever has it can make regions load anything.
package struct SigningKey: Sendable {
    private let key: Ed25519Key
    /// The first 8 bytes of the SHA-256 of the raw public key, in hexadecimal.
    package let id: String

    /// A new pair, from the system's random numbers.
    package init() throws {
        key = try Ed25519Key()
        id = try key.id
    }

    /// Reads a PEM file. It is refused where everybody on the machine may read it.
    package init(path: String) throws {
        let mode = try Folder.mode(ofFileAt: path)
        guard mode & 0o007 == 0 else {
            throw SnapshotFileError(
                "load the signing key", path, "everybody may read it; keep it to its owner: chmod 600 \(path)")
        }
        key = try Ed25519Key(privatePEM: Folder.read(path, bytesMax: Ed25519Key.pemBytesMax), path: path)
        id = try key.id
    }

    /// Writes a PEM file with mode 0600. A file that is there is never overwritten.
    package func save(to path: String) throws {
        try Folder.create(path, try key.privatePEM(), mode: 0o600)
        try Folder.around(path).sync()
    }

    /// Writes the public half, a PEM file that anybody may read. A file that is there is never overwritten.
    package func savePublic(to path: String) throws {
        try Folder.create(path, try key.publicPEM(), mode: 0o644)
        try Folder.around(path).sync()
    }

    /// The public half, as one that is trusted.
    package var trusted: TrustedKeys { TrustedKeys([id: key]) }

    /// 64 bytes, Ed25519 over exactly these bytes.
    package func sign(_ bytes: [UInt8]) throws -> [UInt8] { try key.sign(bytes) }
}

/// The public keys whose snapshots are taken.
package struct TrustedKeys: Sendable {
    private let keys: [String: Ed25519Key]

    init(_ keys: [String: Ed25519Key]) { self.keys = keys }

    /// Reads one public key a PEM file; several are for the time in which one takes the place of another.
    package init(paths: [String]) throws {
        var keys: [String: Ed25519Key] = [:]
        for path in paths {
            let key = try Ed25519Key(
                publicPEM: Folder.read(path, bytesMax: Ed25519Key.pemBytesMax), path: path)
            keys[try key.id] = key
        }
        self.keys = keys
    }

    package var ids: [String] { keys.keys.sorted() }

    package func union(_ other: TrustedKeys) -> TrustedKeys {
        TrustedKeys(keys.merging(other.keys) { first, _ in first })
    }

    /// Throws `signature` where the key is none of these, or the bytes are not what it signed.
    package func verify(_ bytes: [UInt8], signature: [UInt8], keyId: String) throws(SnapshotRefusal) {
        guard let key = keys[keyId] else {
            let known = ids.isEmpty ? "no key is trusted" : "trusted: \(ids.joined(separator: ", "))"
            throw SnapshotRefusal(.signature, "signed by key \(keyId); \(known)")
        }
        guard key.verifies(bytes, signature: signature) else {
            throw SnapshotRefusal(.signature, "what key \(keyId) signed was changed, or it did not sign this")
        }
    }
}
