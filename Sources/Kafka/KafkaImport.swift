internal import CRdkafka
internal import Foundation
import Changes
import Core
import Service

/// Takes a log that was exported elsewhere into empty topics: the same lineage, the same seqs, the same offsets.
///
/// In this order: the lineage, with the seqs that are to come, so that nobody opens the log before all is there; the
/// events, outside of transactions, so that their offsets are dense as they were; the transactions.
@safe package final class KafkaImport {
    private let configuration: KafkaConfiguration
    private let log: Log
    private let reader: KafkaClient
    private let ingest: KafkaClient
    private var producers: [Int: PartitionProducer] = [:]
    private var open: [Pinned] = []
    private var openBytes = 0
    /// What was written so far.
    package private(set) var events: UInt64 = 0
    package private(set) var batches: UInt64 = 0

    private static let transactionBytesMax = 4 << 20
    private static let transactionBatchesMax = 500

    package init(_ configuration: KafkaConfiguration, log: Log) throws {
        self.configuration = configuration
        self.log = log
        let hooks = ClientHooks()
        hooks.log = log
        reader = try KafkaClient(.consumer, configuration.reading("import", fetchWait: 10), hooks: hooks)
        ingest = try KafkaClient(.producer, configuration.ingesting(), hooks: hooks)
    }

    /// Makes the topics where they are missing, and takes all in. Fails where they are not empty. `progress` is called
    /// after each step. Blocking.
    package func run(_ archive: LogArchiveReader, progress: (KafkaImport) -> Void) throws {
        let header = archive.header
        let topics = try KafkaTopics(configuration, log: log)
        for topic in try topics.found() {
            if topic.name != configuration.workers, let have = topic.partitions, have != header.ends.count {
                throw KafkaLogError.partitionsDiffer(topic: topic.name, have: have, want: header.ends.count)
            }
        }
        _ = try topics.create(partitions: header.ends.count)
        for topic in [configuration.input, configuration.changes, configuration.scores, configuration.deadLetters] {
            for partition in header.ends.indices {
                guard try patiently({ try self.reader.watermarks(topic, partition).high }) == 0 else {
                    throw KafkaLogError.notEmpty(topic)
                }
            }
        }
        let known = LineageRecord.Known(lineage: header.lineage, imported: header.ends.map(\.seq))
        guard try LineageRecord.found(known, configuration, reader: reader) else {
            throw KafkaLogError.notEmpty(configuration.changes)
        }
        while let frame = try archive.next() {
            switch frame {
            case .events(let events):
                try append(events)
                self.events += UInt64(events.count)
            case .transaction(let transaction):
                try stage(transaction)
                batches += 1
            }
            progress(self)
        }
        try commit()
        try check(header)
    }

    /// Topics that were made a moment ago have no leader yet.
    private func patiently<Result>(_ body: () throws -> Result) throws -> Result {
        let deadline = Date(timeIntervalSinceNow: 15)
        while true {
            do { return try body() } catch {
                guard Date() < deadline else { throw error }
                Thread.sleep(forTimeInterval: 0.1)
            }
        }
    }

    private func check(_ header: LogArchive.Header) throws {
        for (partition, end) in header.ends.enumerated() {
            let have = try reader.watermarks(configuration.input, partition).high
            guard have == Int64(end.input) else {
                throw KafkaLogError.corrupt(
                    "\(have) events in \(configuration.input) [\(partition)] where \(end.input) were taken in: events that"
                )
            }
        }
        // The brokers acknowledge a transaction before all can read it.
        let stored = try patiently { try KafkaLogReader(configuration, founds: false, log: log) }
        for (partition, end) in header.ends.enumerated() {
            guard try stored.changelogEnd(of: partition) == end.seq, stored.lineage == header.lineage else {
                throw KafkaLogError.corrupt("other batches of partition \(partition) than were taken in, or a lineage")
            }
        }
    }

    // MARK: events

    /// Writes events with the times at which they were taken, and waits until the brokers have them where they belong.
    private func append(_ events: LogArchive.Events) throws {
        let result = Box()
        let delivery = Delivery(expected: events.count) { result.set($0) }
        let topic = try unsafe ingest.topic(configuration.input)
        for index in 0..<events.count {
            try unsafe events.withEvent(index) { event in
                let reference = unsafe Unmanaged.passRetained(delivery)
                var fields = unsafe [rd_kafka_vu_t](repeating: rd_kafka_vu_t(), count: 6)
                unsafe fields[0].vtype = RD_KAFKA_VTYPE_RKT
                unsafe fields[0].u.rkt = topic
                unsafe fields[1].vtype = RD_KAFKA_VTYPE_PARTITION
                unsafe fields[1].u.i32 = Int32(events.partition)
                unsafe fields[2].vtype = RD_KAFKA_VTYPE_VALUE
                unsafe fields[2].u.mem.ptr = UnsafeMutableRawPointer(mutating: event.baseAddress)
                unsafe fields[2].u.mem.size = event.count
                unsafe fields[3].vtype = RD_KAFKA_VTYPE_MSGFLAGS
                unsafe fields[3].u.i = Int32(RD_KAFKA_MSG_F_COPY)
                unsafe fields[4].vtype = RD_KAFKA_VTYPE_TIMESTAMP
                unsafe fields[4].u.i64 = events.times[index] / 1000
                unsafe fields[5].vtype = RD_KAFKA_VTYPE_OPAQUE
                unsafe fields[5].u.ptr = reference.toOpaque()
                if let error = unsafe rd_kafka_produceva(ingest.handle, &fields, fields.count) {
                    unsafe reference.release()
                    delivery.abandon()
                    throw unsafe KafkaError("produce to \(configuration.input)", consuming: error)
                }
            }
        }
        while result.value == nil { unsafe rd_kafka_poll(ingest.handle, 50) }
        let end = try result.value?.get()[events.partition]
        guard end == events.first + UInt64(events.count) else {
            throw KafkaLogError.corrupt(
                "\(end ?? 0) as the end of \(configuration.input) [\(events.partition)] where "
                    + "\(events.first + UInt64(events.count)) was due: somebody else writes there, records")
        }
    }

    /// `@unchecked Sendable`: guarded by the lock.
    private final class Box: @unchecked Sendable {
        private let lock = NSLock()
        private var held: Result<[Int: UInt64], any Error>?
        var value: Result<[Int: UInt64], any Error>? { lock.withLock { held } }
        func set(_ value: Result<[Int: UInt64], any Error>) { lock.withLock { held = value } }
    }

    // MARK: transactions

    private func stage(_ transaction: LogArchive.Transaction) throws {
        let isOther = open.first.map { $0.transaction.partition != transaction.partition } ?? false
        if isOther || open.count >= Self.transactionBatchesMax || openBytes >= Self.transactionBytesMax {
            try commit()
        }
        open.append(Pinned(transaction))
        openBytes += transaction.changes.count + transaction.scores.count + transaction.deadLetters.count
    }

    /// Writes what is staged, of one partition, in one transaction.
    private func commit() throws {
        guard let partition = open.first?.transaction.partition else { return }
        let producer = try producers[partition] ?? begin(partition)
        try producer.begin()
        for one in open { try producer.produce(one.staged) }
        while true {
            do throws(KafkaError) {
                try producer.commit(milliseconds: 30_000)
                break
            } catch { guard error.isRetriable else { throw error } }
        }
        open = []
        openBytes = 0
    }

    private func begin(_ partition: Int) throws(KafkaError) -> PartitionProducer {
        let producer = try PartitionProducer(configuration, partition: partition, id: 0, log: log)
        try producer.initialize(milliseconds: 30_000)
        try producer.prepare()
        producers[partition] = producer
        return producer
    }

    /// One transaction's bytes, which stay where they are until it is committed.
    @safe private final class Pinned {
        let transaction: LogArchive.Transaction
        private let bytes: UnsafeMutableRawBufferPointer
        private let ends: UnsafeMutableBufferPointer<ScoreEnds>
        private let places: [Range<Int>]

        init(_ transaction: LogArchive.Transaction) {
            self.transaction = transaction
            var entities: [UInt8] = []
            var found: [ScoreEnds] = []
            unsafe transaction.scores.withUnsafeBytes { lines in
                var start = 0
                while start < lines.count {
                    let end = unsafe (lines[start...].firstIndex(of: 10) ?? lines.count - 1) + 1
                    entities += unsafe ScoreLine.entity(UnsafeRawBufferPointer(rebasing: lines[start..<end]))
                    found.append(ScoreEnds(line: UInt32(end), entity: UInt32(entities.count)))
                    start = end
                }
            }
            var places: [Range<Int>] = []
            var all: [UInt8] = []
            for part in [transaction.changes, transaction.scores, transaction.deadLetters, entities] {
                places.append(all.count..<all.count + part.count)
                all += part
            }
            self.places = places
            unsafe bytes = .allocate(byteCount: max(1, all.count), alignment: 8)
            unsafe bytes.copyBytes(from: all)
            unsafe ends = .allocate(capacity: max(1, found.count))
            _ = unsafe ends.initialize(from: found)
            count = found.count
        }

        private let count: Int

        deinit {
            unsafe bytes.deallocate()
            unsafe ends.deallocate()
        }

        private func part(_ index: Int) -> UnsafeRawBufferPointer {
            unsafe UnsafeRawBufferPointer(rebasing: bytes[places[index]])
        }

        var staged: StagedCommit {
            unsafe StagedCommit(
                partition: transaction.partition, seq: transaction.seq, endOffset: 0, changes: part(0), scores: part(1),
                scoreEnds: UnsafeBufferPointer(rebasing: ends[..<count]), entities: part(3), deadLetters: part(2))
        }
    }
}

extension ScoreLine {
    /// The primary entity that a line names: its record's key. A quote within a text is escaped, so the mark stands nowhere
    /// else.
    static func entity(_ line: UnsafeRawBufferPointer) -> [UInt8] {
        let mark = Array("\"entity\":\"".utf8)
        guard line.count > mark.count,
            let at = (0..<line.count - mark.count).first(where: {
                unsafe UnsafeRawBufferPointer(rebasing: line[$0..<$0 + mark.count]).elementsEqual(mark)
            })
        else { return [] }
        var text: [UInt8] = []
        var index = at + mark.count
        var isEscaped = false
        while index < line.count, unsafe line[index] != UInt8(ascii: "\"") {
            let step = unsafe line[index] == UInt8(ascii: "\\") ? 2 : 1
            isEscaped = isEscaped || step == 2
            unsafe text.append(contentsOf: line[index..<min(line.count, index + step)])
            index += step
        }
        guard isEscaped else { return text }
        let quoted = Data([UInt8(ascii: "\"")] + text + [UInt8(ascii: "\"")])
        let value = try? JSONSerialization.jsonObject(with: quoted, options: .fragmentsAllowed)
        return (value as? String).map { Array($0.utf8) } ?? text
    }
}
