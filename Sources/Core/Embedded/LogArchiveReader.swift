internal import Foundation
import Changes

/// Reads a log's export, frame by frame; each is held against its checksum.
package final class LogArchiveReader {
    package enum Frame: Sendable {
        case events(LogArchive.Events)
        case transaction(LogArchive.Transaction)
    }

    private let path: String
    private let handle: FileHandle
    private var frames: UInt64 = 0
    package private(set) var header = LogArchive.Header(lineage: Lineage(high: 0, low: 0), pipeline: "", ends: [])

    package init(path: String) throws {
        self.path = path
        guard let handle = FileHandle(forReadingAtPath: path) else { throw LogArchive.Failure.notAnArchive(path) }
        self.handle = handle
        guard let first = try? frame(), first.kind == LogArchive.header else {
            throw LogArchive.Failure.notAnArchive(path)
        }
        let version = unsafe first.payload.withUnsafeBytes { bytes -> UInt16? in
            var reader = unsafe ByteReader(bytes)
            return reader.read(UInt16.self)
        }
        guard let version, version == LogArchive.version else { throw LogArchive.Failure.unknownVersion(version ?? 0) }
        guard let header = Self.header(first.payload) else { throw damaged }
        self.header = header
    }

    /// Reads the whole file and throws where a frame is damaged, cut off or out of its order. Before an import.
    package static func check(path: String) throws -> LogArchive.Header {
        let reader = try LogArchiveReader(path: path)
        var ends = reader.header.ends.map { _ in LogArchive.End(input: 0, seq: 0) }
        while let frame = try reader.next() {
            switch frame {
            case .events(let events):
                guard events.partition < ends.count, ends[events.partition].input == events.first else {
                    throw reader.damaged
                }
                ends[events.partition].input += UInt64(events.count)
            case .transaction(let transaction):
                guard transaction.partition < ends.count, ends[transaction.partition].seq + 1 == transaction.seq else {
                    throw reader.damaged
                }
                ends[transaction.partition].seq = transaction.seq
            }
        }
        guard ends == reader.header.ends else { throw reader.damaged }
        return reader.header
    }

    /// The next frame; `nil` behind the last.
    package func next() throws -> Frame? {
        let (kind, partition, position, payload) = try frame()
        switch kind {
        case LogArchive.input:
            guard let events = Self.events(partition, position, payload) else { throw damaged }
            return .events(events)
        case LogArchive.transaction:
            guard let transaction = Self.transaction(partition, position, payload) else { throw damaged }
            return .transaction(transaction)
        case LogArchive.end:
            guard position == frames - 1 else { throw damaged }
            return nil
        default: throw damaged
        }
    }

    private var damaged: LogArchive.Failure { .damaged(path: path, frame: frames) }

    private func frame() throws -> (kind: UInt8, partition: Int, position: UInt64, payload: [UInt8]) {
        let head = Array(try handle.read(upToCount: LogArchive.headBytes) ?? Data())
        let parts = unsafe head.withUnsafeBytes { bytes -> (UInt8, Int, UInt64, Int)? in
            var reader = unsafe ByteReader(bytes)
            guard let kind = reader.read(UInt8.self), let partition = reader.read(UInt32.self),
                let position = reader.read(UInt64.self), let length = reader.read(UInt32.self)
            else { return nil }
            return (kind, Int(partition), position, Int(length))
        }
        guard let (kind, partition, position, length) = parts, length <= LogArchive.payloadBytesMax else {
            throw damaged
        }
        var payload = Array(try handle.read(upToCount: length + 4) ?? Data())
        guard payload.count == length + 4 else { throw damaged }
        let stored = unsafe payload.withUnsafeBytes {
            unsafe UInt32(littleEndian: $0.loadUnaligned(fromByteOffset: length, as: UInt32.self))
        }
        payload.removeLast(4)
        let sum = unsafe head.withUnsafeBytes { unsafe crc32c($0) }
        guard unsafe payload.withUnsafeBytes({ unsafe crc32c($0, continuing: sum) }) == stored else { throw damaged }
        frames += 1
        return (kind, partition, position, payload)
    }

    private static func header(_ payload: [UInt8]) -> LogArchive.Header? {
        unsafe payload.withUnsafeBytes { bytes in
            var reader = unsafe ByteReader(bytes)
            guard reader.read(UInt16.self) != nil, let high = reader.read(UInt64.self),
                let low = reader.read(UInt64.self), let count = reader.read(UInt32.self), count > 0,
                reader.remaining >= Int(count) * 16
            else { return nil }
            var ends: [LogArchive.End] = []
            for _ in 0..<count {
                guard let input = reader.read(UInt64.self), let seq = reader.read(UInt64.self) else { return nil }
                ends.append(LogArchive.End(input: input, seq: seq))
            }
            guard let name = unsafe reader.read(count: reader.remaining) else { return nil }
            return LogArchive.Header(
                lineage: Lineage(high: high, low: low), pipeline: unsafe String(decoding: name, as: UTF8.self),
                ends: ends)
        }
    }

    private static func events(_ partition: Int, _ first: UInt64, _ payload: [UInt8]) -> LogArchive.Events? {
        unsafe payload.withUnsafeBytes { bytes in
            var reader = unsafe ByteReader(bytes)
            var events = LogArchive.Events(partition: partition, first: first)
            guard let count = reader.read(UInt32.self), reader.remaining >= Int(count) * 12 else { return nil }
            for _ in 0..<count {
                guard let time = reader.read(Int64.self), let length = reader.read(UInt32.self) else { return nil }
                events.times.append(time)
                events.ends.append((events.ends.last ?? 0) + Int(length))
            }
            guard reader.remaining == events.ends.last ?? 0, let rest = unsafe reader.read(count: reader.remaining)
            else {
                return nil
            }
            events.bytes = unsafe Array(rest)
            return events
        }
    }

    private static func transaction(_ partition: Int, _ seq: UInt64, _ payload: [UInt8]) -> LogArchive.Transaction? {
        unsafe payload.withUnsafeBytes { bytes in
            var reader = unsafe ByteReader(bytes)
            guard let changes = reader.read(UInt32.self), let scores = reader.read(UInt32.self),
                let letters = reader.read(UInt32.self),
                reader.remaining == Int(changes) + Int(scores) + Int(letters),
                let first = unsafe reader.read(count: Int(changes)),
                let second = unsafe reader.read(count: Int(scores)),
                let third = unsafe reader.read(count: Int(letters))
            else { return nil }
            return unsafe LogArchive.Transaction(
                partition: partition, seq: seq, changes: Array(first), scores: Array(second), deadLetters: Array(third))
        }
    }
}
