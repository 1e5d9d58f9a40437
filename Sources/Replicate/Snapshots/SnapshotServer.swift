import Changes

/// Answers requests from a store: reads `files/` and `manifests/`, by names that were checked, and nothing else.
///
/// Thread-safe; blocking. A refusal goes back as an answer, so that the other end need not wait for one.
package struct SnapshotServer: Sendable {
    package let store: SnapshotStore

    package init(_ store: SnapshotStore) { self.store = store }

    package func answer(_ request: SnapshotRequest) -> SnapshotAnswer {
        do {
            switch request {
            case .latest: return try store.current.map { .bytes($0.encoded) } ?? .nothing
            case .manifest(let number): return .bytes(try store.manifest(number: number).encoded)
            case .chunk(let sha256, let offset, let length):
                return .bytes(try chunk(of: sha256, offset: offset, length: length))
            }
        } catch let refusal as SnapshotRefusal {
            return request.isOptional && refusal.reason == .unavailable ? .nothing : .refused(refusal)
        } catch let error as SnapshotFileError {
            // The other end need not learn our paths.
            return .refused(SnapshotRefusal(.unavailable, "\(error.operation): \(error.message)"))
        } catch {
            return .refused(SnapshotRefusal(.unavailable, "the store cannot be read"))
        }
    }

    func chunk(of sha256: String, offset: Int, length: Int) throws -> [UInt8] {
        guard SnapshotFile.isDigest(sha256) else { throw SnapshotRefusal(.malformed, "no file has that name") }
        guard (1...SnapshotChunk.bytesMax).contains(length), offset >= 0 else {
            throw SnapshotRefusal(
                .malformed, "\(length) bytes from \(offset); from 1 to \(SnapshotChunk.bytesMax) at once")
        }
        let path = store.files.path(of: sha256)
        guard let size = try Folder.size(ofFileAt: path) else {
            throw SnapshotRefusal(.unavailable, "file \(sha256) is not here")
        }
        guard offset < size else { throw SnapshotRefusal(.truncated, "file \(sha256) has \(size) bytes here") }
        let file = try FileDescriptor(reading: path)
        var bytes = [UInt8](repeating: 0, count: min(length, size - offset))
        var count = 0
        while count < bytes.count {
            let read = try unsafe bytes.withUnsafeMutableBytes {
                try unsafe file.read(into: UnsafeMutableRawBufferPointer(rebasing: $0[count...]), at: offset + count)
            }
            guard read > 0 else { break }
            count += read
        }
        return count == bytes.count ? bytes : Array(bytes.prefix(count))
    }
}

/// What a region asks a sealer for: a small binary message.
package enum SnapshotRequest: Equatable, Sendable {
    case latest
    case manifest(number: UInt64)
    case chunk(sha256: String, offset: Int, length: Int)

    private static let magic: UInt32 = 0x5153_4C54  // "TLSQ"

    /// Whether there may be nothing to answer with.
    var isOptional: Bool { if case .chunk = self { false } else { true } }

    package func encoded() -> [UInt8] {
        var writer = ByteWriter(capacity: 128)
        writer.append(Self.magic)
        switch self {
        case .latest: writer.append(UInt32(1))
        case .manifest(let number):
            writer.append(UInt32(2))
            writer.append(number)
        case .chunk(let sha256, let offset, let length):
            writer.append(UInt32(3))
            writer.append(Int64(offset))
            writer.append(Int64(length))
            for byte in sha256.utf8 { writer.append(byte) }
        }
        return unsafe Array(writer.bytes)
    }

    /// `nil` where the bytes are no request.
    package init?(decoding bytes: UnsafeRawBufferPointer) {
        var reader = unsafe ByteReader(bytes)
        guard reader.read(UInt32.self) == Self.magic, let kind = reader.read(UInt32.self) else { return nil }
        switch kind {
        case 1: self = .latest
        case 2:
            guard let number = reader.read(UInt64.self) else { return nil }
            self = .manifest(number: number)
        case 3:
            guard let offset = reader.read(Int64.self), let length = reader.read(Int64.self), reader.remaining == 64
            else { return nil }
            let digits = (0..<64).compactMap { _ in reader.read(UInt8.self) }
            let sha256 = String(decoding: digits, as: UTF8.self)
            guard SnapshotFile.isDigest(sha256) else { return nil }
            self = .chunk(sha256: sha256, offset: Int(offset), length: Int(length))
        default: return nil
        }
        guard reader.remaining == 0 else { return nil }
    }
}

/// What a sealer answers.
package enum SnapshotAnswer: Equatable, Sendable {
    case bytes([UInt8])
    /// There is no such snapshot.
    case nothing
    case refused(SnapshotRefusal)

    private static let magic: UInt32 = 0x4153_4C54  // "TLSA"
    /// Before the bytes.
    package static let headBytes = 8
    private static let detailBytesMax = 1000

    package func encoded() -> [UInt8] {
        let (kind, body): (UInt32, [UInt8]) =
            switch self {
            case .bytes(let bytes): (1, bytes)
            case .nothing: (2, [])
            case .refused(let refusal):
                (3, Array("\(refusal.reason.rawValue) \(refusal.detail)".utf8.prefix(Self.detailBytesMax)))
            }
        return Self.head(kind) + body
    }

    private static func head(_ kind: UInt32) -> [UInt8] {
        [Self.magic, kind].flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> ($0 * 8)) } }
    }

    /// `malformed` where the bytes are no answer.
    package init(decoding bytes: [UInt8]) throws(SnapshotRefusal) {
        let body = bytes.dropFirst(Self.headBytes)
        switch Array(bytes.prefix(Self.headBytes)) {
        case Self.head(1): self = .bytes(Array(body))
        case Self.head(2) where body.isEmpty: self = .nothing
        case Self.head(3) where body.count <= Self.detailBytesMax:
            let words = String(decoding: body, as: UTF8.self).split(separator: " ", maxSplits: 1).map(String.init)
            guard let reason = words.first.flatMap(SnapshotRefusal.Reason.init(rawValue:)) else {
                throw SnapshotRefusal(.malformed, "an answer with an unknown reason")
            }
            self = .refused(SnapshotRefusal(reason, words.count > 1 ? words[1] : ""))
        default: throw SnapshotRefusal(.malformed, "\(bytes.count) bytes that are no answer")
        }
    }
}
