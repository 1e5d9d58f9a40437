internal import Foundation
import Changes
import Core
import Service

/// Reads what a log in Kafka holds. A partition that is read on where the last call ended goes on with the same fetch.
///
/// `@unchecked Sendable`: the readers are guarded by the lock.
package final class KafkaLogReader: LogReader, @unchecked Sendable {
    package let lineage: Lineage
    package let partitions: Int
    private let configuration: KafkaConfiguration
    private let client: KafkaClient
    /// Looks here and there. A client reads a partition once at a time, and `client` follows some.
    private let probe: KafkaClient
    private let lock = NSLock()
    private var following: [Int: Following] = [:]
    private var followingInput: [Int: Following] = [:]
    /// Partitions that `beside` is looking for a place in.
    private var beginning: Set<Int> = []
    private let beside = DispatchQueue(label: "tideline.kafka.follow")
    private let log: Log
    let ends: ChangelogEnds

    /// A partition that someone reads on and on.
    private final class Following {
        let reader: PartitionReader
        /// The next record's seq, of input its offset.
        var next: UInt64

        init(_ reader: PartitionReader, next: UInt64) {
            self.reader = reader
            self.next = next
        }
    }

    /// Fails where the topics are not there. `founds`: gives the log its lineage where it has none yet, as a core does.
    package convenience init(_ configuration: KafkaConfiguration, founds: Bool, log: Log) throws {
        try self.init(configuration, founds: founds, fetchWait: 10, ends: nil, log: log)
    }

    /// `ends`: those of another reader of the same log.
    init(
        _ configuration: KafkaConfiguration, founds: Bool, fetchWait: Int, ends: ChangelogEnds?, log: Log
    ) throws {
        self.configuration = configuration
        self.log = log
        let hooks = ClientHooks()
        hooks.log = log
        client = try KafkaClient(.consumer, configuration.reading("reader", fetchWait: fetchWait), hooks: hooks)
        probe = try KafkaClient(.consumer, configuration.reading("probe", fetchWait: 10), hooks: hooks)
        guard let partitions = try client.partitions(of: configuration.input, waitingSeconds: founds ? 5 : 0) else {
            throw KafkaLogError.missingTopic(configuration.input)
        }
        for topic in [configuration.changes, configuration.scores, configuration.deadLetters] {
            guard let count = try client.partitions(of: topic, waitingSeconds: founds ? 5 : 0) else {
                throw KafkaLogError.missingTopic(topic)
            }
            guard count == partitions else {
                throw KafkaLogError.partitionsDiffer(topic: topic, have: count, want: partitions)
            }
        }
        self.partitions = partitions
        self.ends = try ends ?? ChangelogEnds(configuration, partitions: partitions, log: log)
        let known = try LineageRecord.agree(configuration, reader: probe, founds: founds)
        lineage = known.lineage
        for (partition, seq) in known.imported.enumerated() where partition < partitions {
            let have = try changelogEnd(of: partition)
            guard have >= seq else { throw KafkaLogError.unfinishedImport(partition: partition, have: have, want: seq) }
        }
    }

    // MARK: input

    package func input(
        of partition: Int, from offset: UInt64,
        _ visit: (_ offset: UInt64, _ event: UnsafeRawBufferPointer, _ appendTime: Int64) throws -> Bool
    ) throws {
        try locked {
            try follow(
                \.followingInput, configuration.input, partition, from: offset, keepsLast: true,
                begin: { low, _ in max(low, Int64(offset)) },
                { place, record in
                    let goesOn = try unsafe visit(UInt64(record.offset), record.value, record.time)
                    place.next = UInt64(record.offset) + (goesOn ? 1 : 0)
                    return goesOn
                })
        }
    }

    /// Reads a partition on where the last call ended, or begins anew. What is fetched already needs no broker.
    private func follow(
        _ known: ReferenceWritableKeyPath<KafkaLogReader, [Int: Following]>, _ topic: String, _ partition: Int,
        from next: UInt64, keepsLast: Bool, begin: (_ low: Int64, _ high: Int64) throws -> Int64,
        _ visit: (Following, PartitionReader.Record) throws -> Bool
    ) throws {
        do {
            if let place = self[keyPath: known][partition], place.next == next {
                if try place.reader.visitFetched(keepsLast: keepsLast, { try visit(place, $0) }) { return }
                let high = try client.watermarks(topic, partition).high
                return try place.reader.drain(topic, partition, to: high, keepsLast: keepsLast) { try visit(place, $0) }
            }
            // A client reads a partition once at a time.
            self[keyPath: known][partition] = nil
            let (low, high) = try client.watermarks(topic, partition)
            let offset = high > low ? try begin(low, high) : high
            guard offset < high else { return }
            let reader = try PartitionReader(client, topic: topic, partition: partition, from: offset)
            let place = Following(reader, next: next)
            self[keyPath: known][partition] = place
            try reader.drain(topic, partition, to: high, keepsLast: keepsLast) { try visit(place, $0) }
        } catch {
            self[keyPath: known][partition] = nil
            throw error
        }
    }

    package func inputEnd(of partition: Int) throws -> UInt64 {
        try locked { UInt64(try client.watermarks(configuration.input, partition).high) }
    }

    // MARK: the changelog

    package func changelogEnd(of partition: Int) throws -> UInt64 { try ends.end(of: partition) }

    package func changelog(
        of partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ encoded: UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        try locked {
            try follow(
                \.following, configuration.changes, partition, from: seq + 1, keepsLast: false,
                begin: { low, high in
                    try self.offset(before: seq + 1, configuration.changes, partition, low, high) {
                        unsafe Self.seq($0.value)
                    }
                },
                { place, record in
                    guard let found = unsafe Self.seq(record.value), found >= place.next else { return true }
                    guard found == place.next else {
                        throw KafkaLogError.corrupt(
                            "batch \(found) of partition \(partition) where \(place.next) was due")
                    }
                    place.next = found + 1
                    return try unsafe visit(found, record.value)
                })
        }
    }

    /// Visits the batches after `seq` that have come by themselves since the last call. The first call begins to follow,
    /// beside its caller: nothing comes until that is done.
    func fetched(
        of partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ encoded: UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        guard let place = locked({ following[partition] }), place.next == seq + 1 else {
            return beginFollowing(partition, after: seq)
        }
        try locked {
            _ = try place.reader.read(waitMilliseconds: 0) { record in
                guard let found = unsafe Self.seq(record.value), found >= place.next else { return true }
                place.next = found + 1
                return try unsafe visit(found, record.value)
            }
        }
    }

    /// To find the place takes some questions to the brokers, a fifth of a second: too long for who scores meanwhile. Of a
    /// reader that is asked so nobody asks `changelog`.
    private func beginFollowing(_ partition: Int, after seq: UInt64) {
        let begins = locked {
            // A client reads a partition once at a time.
            if !beginning.contains(partition) { following[partition] = nil }
            return beginning.insert(partition).inserted
        }
        guard begins else { return }
        beside.async { [self] in
            var place: Following?
            do {
                let (low, high) = try client.watermarks(configuration.changes, partition)
                let from = try offset(before: seq + 1, configuration.changes, partition, low, high) {
                    unsafe Self.seq($0.value)
                }
                place = Following(
                    try PartitionReader(client, topic: configuration.changes, partition: partition, from: from),
                    next: seq + 1)
            } catch {
                log.warning("cannot follow yet", ["partition": partition, "because": "\(error)"])
            }
            locked {
                following[partition] = place
                beginning.remove(partition)
            }
        }
    }

    /// An offset before which nothing of the transaction `seq`, or of a later one, stands. Markers and what was aborted take
    /// offsets too: found in growing steps back from the end, where most of what is asked for stands, then by bisection.
    private func offset(
        before seq: UInt64, _ topic: String, _ partition: Int, _ low: Int64, _ high: Int64,
        _ seqOf: (PartitionReader.Record) -> UInt64?
    ) throws -> Int64 {
        guard seq > 1 else { return low }
        var before = low
        var after = high  // What stands at or after it is too late.
        var step: Int64? = 64
        while after - before > 64 {
            let place = step.map { max(before, high - $0) } ?? before + (after - before) / 2
            step = step.map { $0 * 8 }
            var found: (offset: Int64, seq: UInt64)?
            try probe.records(topic, partition, from: place, to: after) { record in
                guard let seq = seqOf(record) else { return true }
                found = (record.offset, seq)
                return false
            }
            if let found, found.seq < seq {
                before = found.offset
                step = nil
            } else {
                after = place
            }
        }
        return before
    }

    /// A batch's seq, read from its head; `nil` where the record is no batch.
    static func seq(_ value: UnsafeRawBufferPointer) -> UInt64? {
        guard value.count >= ChangeBatchHeader.byteCount,
            unsafe UInt32(littleEndian: value.loadUnaligned(as: UInt32.self)) == ChangeBatchHeader.magic
        else { return nil }
        return unsafe UInt64(littleEndian: value.loadUnaligned(fromByteOffset: 40, as: UInt64.self))
    }

    // MARK: scores and dead letters

    package func scores(
        of partition: Int, after seq: UInt64,
        _ visit: (_ seq: UInt64, _ lines: UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        try locked {
            let (low, high) = try client.watermarks(configuration.scores, partition)
            let from = try offset(before: seq + 1, configuration.scores, partition, low, high) {
                unsafe ScoreLine.seq($0.value)
            }
            try probe.records(configuration.scores, partition, from: from, to: high) { record in
                guard let found = unsafe ScoreLine.seq(record.value) else {
                    throw KafkaLogError.corrupt("a score without a seq")
                }
                return found <= seq ? true : try unsafe visit(found, record.value)
            }
        }
    }

    package func deadLetters(
        of partition: Int, after seq: UInt64, _ visit: (_ seq: UInt64, _ letters: [DeadLetter]) throws -> Bool
    ) throws {
        try locked {
            let (low, high) = try client.watermarks(configuration.deadLetters, partition)
            let from = try offset(before: seq + 1, configuration.deadLetters, partition, low, high, Self.letterSeq)
            try probe.records(configuration.deadLetters, partition, from: from, to: high) { record in
                guard let found = Self.letterSeq(record), let letters = unsafe DeadLetter.read(record.value) else {
                    throw KafkaLogError.corrupt("dead letters")
                }
                return found <= seq ? true : try visit(found, letters)
            }
        }
    }

    /// The key of a record of dead letters.
    private static func letterSeq(_ record: PartitionReader.Record) -> UInt64? {
        unsafe record.key.count == 8 ? UInt64(littleEndian: record.key.loadUnaligned(as: UInt64.self)) : nil
    }

    private func locked<Result>(_ body: () throws -> Result) rethrows -> Result {
        lock.lock()
        defer { lock.unlock() }
        return try body()
    }
}

/// What is read back of a score's line.
enum ScoreLine {
    /// The number behind `"seq":`.
    static func seq(_ line: UnsafeRawBufferPointer) -> UInt64? {
        let mark = Array("\"seq\":".utf8)
        guard line.count > mark.count else { return nil }
        // Its place is near the line's end: ids and entities, which may say anything, stand before it.
        var at = line.count - mark.count - 1
        while at >= 0 {
            if unsafe UnsafeRawBufferPointer(rebasing: line[at..<(at + mark.count)]).elementsEqual(mark) {
                var value: UInt64 = 0
                var index = at + mark.count
                while index < line.count, unsafe line[index] >= 0x30, unsafe line[index] <= 0x39 {
                    value = unsafe value &* 10 &+ UInt64(line[index] - 0x30)
                    index += 1
                }
                return value
            }
            at -= 1
        }
        return nil
    }
}
