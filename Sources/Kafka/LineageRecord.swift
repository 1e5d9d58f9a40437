internal import Foundation
import Changes

/// The first record of a changelog's first partition: which log this is. A topic that was deleted and made again gets
/// another one. A log that came from elsewhere keeps its own, and the record says up to which seq each partition came.
enum LineageRecord {
    struct Known: Equatable {
        var lineage: Lineage
        /// By partition; empty for a log that began here.
        var imported: [UInt64] = []
    }

    private static let key = Array("lineage".utf8)

    /// Reads the lineage, or founds it. Workers that start at once agree: the transactional id lets one of them write,
    /// and each looks again after it holds the id.
    static func agree(_ configuration: KafkaConfiguration, reader: KafkaClient, founds: Bool) throws -> Known {
        if let known = try read(configuration, reader) { return known }
        guard founds else { throw KafkaLogError.corrupt("no lineage yet: no core has run on it, so nothing") }
        while true {
            let producer = try TransactionalProducer(
                configuration.transactional(id: "tideline-\(configuration.pipeline)-lineage"), hooks: ClientHooks())
            try producer.initialize(milliseconds: 30_000)
            if let known = try read(configuration, reader) { return known }
            do {
                let known = Known(lineage: .random())
                try write(known, producer, configuration)
                try awaitReadable(configuration, reader)
                return known
            } catch let error as KafkaError where error.isFenced {
                continue  // Another worker founds it, or has.
            }
        }
    }

    /// Founds a log that comes from elsewhere. Returns `false` where there is one already.
    static func found(_ known: Known, _ configuration: KafkaConfiguration, reader: KafkaClient) throws -> Bool {
        let producer = try TransactionalProducer(
            configuration.transactional(id: "tideline-\(configuration.pipeline)-lineage"), hooks: ClientHooks())
        try producer.initialize(milliseconds: 30_000)
        guard try read(configuration, reader) == nil else { return false }
        try write(known, producer, configuration)
        try awaitReadable(configuration, reader)
        return true
    }

    private static func write(
        _ known: Known, _ producer: TransactionalProducer, _ configuration: KafkaConfiguration
    ) throws {
        var value: [UInt8] = []
        for part in [known.lineage.high, known.lineage.low] + known.imported {
            unsafe withUnsafeBytes(of: part.littleEndian) { unsafe value.append(contentsOf: $0) }
        }
        try producer.begin()
        try unsafe key.withUnsafeBytes { key in
            try unsafe value.withUnsafeBytes { value in
                try unsafe producer.produce(configuration.changes, 0, key: key, value: value)
                try producer.commit(milliseconds: 30_000)
            }
        }
    }

    /// The brokers write a transaction's end after they have acknowledged it: until then nobody can read what it holds.
    private static func awaitReadable(_ configuration: KafkaConfiguration, _ reader: KafkaClient) throws {
        let deadline = Date(timeIntervalSinceNow: 30)
        while try read(configuration, reader) == nil {
            guard Date() < deadline else { throw KafkaLogError.noEnd(topic: configuration.changes, partition: 0) }
            Thread.sleep(forTimeInterval: 0.01)
        }
    }

    private static func read(_ configuration: KafkaConfiguration, _ reader: KafkaClient) throws -> Known? {
        let (low, high) = try reader.watermarks(configuration.changes, 0)
        var found: Known?
        try reader.records(configuration.changes, 0, from: low, to: high) { record in
            guard unsafe record.key.elementsEqual(key), unsafe record.value.count >= 16,
                unsafe record.value.count % 8 == 0
            else { return false }
            let numbers = unsafe (0..<record.value.count / 8).map {
                unsafe UInt64(littleEndian: record.value.loadUnaligned(fromByteOffset: $0 * 8, as: UInt64.self))
            }
            found = Known(lineage: Lineage(high: numbers[0], low: numbers[1]), imported: Array(numbers[2...]))
            return false
        }
        return found
    }
}
