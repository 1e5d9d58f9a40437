/// A manifest with its signature: what is announced, sent and kept.
///
/// The envelope is one line, `tideline-snapshot 1 KEY-ID SIGNATURE` (16 and 128 hexadecimal digits), and the manifest's
/// JSON exactly as it was signed.
package struct SignedManifest: Equatable, Sendable {
    package let manifest: SnapshotManifest
    /// The JSON exactly as signed.
    package let bytes: [UInt8]
    /// 64 bytes, Ed25519.
    package let signature: [UInt8]
    package let keyId: String

    private static let title = "tideline-snapshot 1"
    private static let headBytes = title.utf8.count + 1 + 16 + 1 + 128 + 1

    /// An envelope is never longer.
    package static let bytesMax = headBytes + SnapshotManifest.bytesMax

    package var name: SnapshotName { manifest.name }

    /// Signs it. Throws where it is no sound manifest.
    package init(_ manifest: SnapshotManifest, by key: SigningKey) throws {
        self.manifest = manifest
        bytes = try manifest.encoded()
        signature = try key.sign(bytes)
        keyId = key.id
    }

    /// Reads an envelope: the signature is verified before anything in it is read.
    package init(decoding envelope: [UInt8], trusting keys: TrustedKeys) throws(SnapshotRefusal) {
        guard !envelope.isEmpty else { throw SnapshotRefusal(.empty, "an envelope of 0 bytes") }
        guard envelope.count <= Self.bytesMax else {
            throw SnapshotRefusal(.tooLarge, "an envelope of \(envelope.count) bytes")
        }
        let head = String(decoding: envelope.prefix(Self.headBytes), as: UTF8.self)
        let words = head.split(separator: " ", omittingEmptySubsequences: false).map(String.init)
        guard words.count == 4, words[0] == "tideline-snapshot" else {
            throw SnapshotRefusal(.malformed, "no signed snapshot")
        }
        guard words[1] == "1" else {
            throw SnapshotRefusal(
                .malformed, "an envelope of version \(words[1].prefix(8)); this program reads version 1")
        }
        guard words[3].hasSuffix("\n"), isHexadecimal(words[2], digits: 16),
            isHexadecimal(String(words[3].dropLast()), digits: 128)
        else { throw SnapshotRefusal(.malformed, "the envelope's first line is cut or changed") }
        let signature = [UInt8](hexadecimal: words[3].dropLast().utf8)
        let bytes = Array(envelope.dropFirst(Self.headBytes))
        try keys.verify(bytes, signature: signature, keyId: words[2])
        manifest = try SnapshotManifest(decoding: bytes)
        self.bytes = bytes
        self.signature = signature
        keyId = words[2]
    }

    package var encoded: [UInt8] {
        Array("\(Self.title) \(keyId) \(signature.hexadecimal)\n".utf8) + bytes
    }
}

extension Sequence<UInt8> {
    /// Two lower-case digits a byte.
    var hexadecimal: String {
        let digits = Array("0123456789abcdef".utf8)
        return String(decoding: flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    }
}

extension [UInt8] {
    /// Reads lower-case digits that were checked.
    fileprivate init(hexadecimal digits: some Sequence<UInt8>) {
        let halves = digits.map { $0 < 58 ? $0 - 48 : $0 - 87 }
        self = stride(from: 0, to: halves.count - 1, by: 2).map { halves[$0] << 4 | halves[$0 + 1] }
    }
}
