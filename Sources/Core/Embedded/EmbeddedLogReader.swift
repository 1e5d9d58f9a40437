import Changes
import Storage

/// Reads an embedded log: the one that the core writes in this process, or, as a secondary, another process's.
package final class EmbeddedLogReader: LogReader {
    package let store: Store
    package let lineage: Lineage
    package let partitions: Int

    /// Opens the log in a folder beside the process that writes it. `scratch` is for RocksDB's own notes.
    package convenience init(following path: String, scratch: String) throws {
        var configuration = EmbeddedLog.storeConfiguration
        configuration.mode = .secondary(scratch: scratch)
        try self.init(Store(path: path, configuration))
    }

    init(_ store: Store) throws {
        let identity = try unsafe store.get(EmbeddedLogKeys.identity) { bytes -> (Lineage, Int, UInt32)? in
            var reader = unsafe ByteReader(bytes)
            guard let high = reader.read(UInt64.self), let low = reader.read(UInt64.self),
                let partitions = reader.read(UInt32.self), let format = reader.read(UInt32.self)
            else { return nil }
            return (Lineage(high: high, low: low), Int(partitions), format)
        }
        guard let identity = identity ?? nil else { throw EmbeddedLogError.notALog(store.path) }
        guard identity.2 == EmbeddedLogKeys.format else { throw EmbeddedLogError.unknownFormat(identity.2) }
        self.store = store
        lineage = identity.0
        partitions = identity.1
    }

    /// Visits the events of a partition from `offset` on, in order, while `visit` says so.
    package func input(
        of partition: Int, from offset: UInt64,
        _ visit: (_ offset: UInt64, _ event: UnsafeRawBufferPointer, _ appendTime: Int64) throws -> Bool
    ) throws {
        let iterator = StoreIterator(store)
        let prefix = EmbeddedLogKeys.prefix(EmbeddedLogKeys.input, partition)
        iterator.seekBack(EmbeddedLogKeys.key(EmbeddedLogKeys.input, partition, offset))
        let found = iterator.isValid ? unsafe iterator.key.starts(with: prefix) : false
        if !found {
            iterator.seek(EmbeddedLogKeys.key(EmbeddedLogKeys.input, partition, offset))
        }
        while iterator.isValid, unsafe iterator.key.starts(with: prefix) {
            let first = unsafe EmbeddedLogKeys.position(of: iterator.key)
            guard let chunk = unsafe InputChunk(iterator.value) else {
                throw EmbeddedLogError.corrupt("an input chunk")
            }
            for index in 0..<chunk.count where first + UInt64(index) >= offset {
                guard try unsafe visit(first + UInt64(index), chunk.event(index), chunk.appendTime) else { return }
            }
            iterator.next()
        }
        try iterator.check()
    }

    /// The offset after the partition's last event.
    package func inputEnd(of partition: Int) throws -> UInt64 {
        try unsafe last(EmbeddedLogKeys.input, partition) { position, value in
            guard let chunk = unsafe InputChunk(value) else { throw EmbeddedLogError.corrupt("an input chunk") }
            return position + UInt64(chunk.count)
        } ?? 0
    }

    package func changelogEnd(of partition: Int) throws -> UInt64 {
        try unsafe last(EmbeddedLogKeys.changes, partition) { position, _ in position } ?? 0
    }

    package func changelog(
        of partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ encoded: UnsafeRawBufferPointer) throws -> Bool
    ) throws { try unsafe rows(EmbeddedLogKeys.changes, of: partition, after: seq, visit) }

    /// The scores of each transaction after `seq`: JSON lines.
    package func scores(
        of partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ lines: UnsafeRawBufferPointer) throws -> Bool
    ) throws { try unsafe rows(EmbeddedLogKeys.scores, of: partition, after: seq, visit) }

    package func deadLetters(
        of partition: Int, after seq: UInt64, _ visit: (_ seq: UInt64, _ letters: [DeadLetter]) throws -> Bool
    ) throws {
        try unsafe rows(EmbeddedLogKeys.deadLetters, of: partition, after: seq) { seq, bytes in
            guard let letters = unsafe DeadLetter.read(bytes) else { throw EmbeddedLogError.corrupt("dead letters") }
            return try visit(seq, letters)
        }
    }

    private func rows(
        _ kind: UInt8, of partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ value: UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        let iterator = StoreIterator(store)
        let prefix = EmbeddedLogKeys.prefix(kind, partition)
        iterator.seek(EmbeddedLogKeys.key(kind, partition, seq + 1))
        while iterator.isValid, unsafe iterator.key.starts(with: prefix) {
            guard try unsafe visit(EmbeddedLogKeys.position(of: iterator.key), iterator.value) else { return }
            iterator.next()
        }
        try iterator.check()
    }

    private func last<Result>(
        _ kind: UInt8, _ partition: Int, _ use: (UInt64, UnsafeRawBufferPointer) throws -> Result
    ) throws -> Result? {
        let iterator = StoreIterator(store)
        iterator.seekBack(EmbeddedLogKeys.key(kind, partition, .max))
        guard iterator.isValid, unsafe iterator.key.starts(with: EmbeddedLogKeys.prefix(kind, partition)) else {
            try iterator.check()
            return nil
        }
        return try unsafe use(EmbeddedLogKeys.position(of: iterator.key), iterator.value)
    }
}

package enum EmbeddedLogError: Error, CustomStringConvertible, Equatable {
    case notALog(String)
    case unknownFormat(UInt32)
    case partitionsDiffer(have: Int, want: Int)
    case corrupt(String)

    package var description: String {
        switch self {
        case .notALog(let path): "\(path) holds no log of ours yet; start `tideline up` or `tideline core` there first"
        case .unknownFormat(let format): "the log has format \(format), this program reads \(EmbeddedLogKeys.format)"
        case .partitionsDiffer(let have, let want):
            "the log has \(have) partitions, \(want) were asked for: leave --partitions out, or begin another --dir"
        case .corrupt(let what): "the log holds \(what) that cannot be read"
        }
    }
}
