internal import Foundation
import Changes

/// The first record of a changelog's first partition: which log this is. A topic that was deleted and made again gets
/// another one.
enum LineageRecord {
    private static let key = Array("lineage".utf8)

    /// Reads the lineage, or founds it. Workers that start at once agree: the transactional id lets one of them write,
    /// and each looks again after it holds the id.
    static func agree(_ configuration: KafkaConfiguration, reader: KafkaClient, founds: Bool) throws -> Lineage {
        if let known = try read(configuration, reader) { return known }
        guard founds else { throw KafkaLogError.corrupt("no lineage yet: no core has run on it, so nothing") }
        while true {
            let producer = try TransactionalProducer(
                configuration.transactional(id: "tideline-\(configuration.pipeline)-lineage"), hooks: ClientHooks())
            try producer.initialize(milliseconds: 30_000)
            if let known = try read(configuration, reader) { return known }
            let lineage = Lineage.random()
            var value: [UInt8] = []
            for part in [lineage.high, lineage.low] {
                unsafe withUnsafeBytes(of: part.littleEndian) { unsafe value.append(contentsOf: $0) }
            }
            do {
                try producer.begin()
                try unsafe key.withUnsafeBytes { key in
                    try unsafe value.withUnsafeBytes { value in
                        try unsafe producer.produce(configuration.changes, 0, key: key, value: value)
                        try producer.commit(milliseconds: 30_000)
                    }
                }
                try awaitReadable(configuration, reader)
                return lineage
            } catch let error as KafkaError where error.isFenced {
                continue  // Another worker founds it, or has.
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

    private static func read(_ configuration: KafkaConfiguration, _ reader: KafkaClient) throws -> Lineage? {
        let (low, high) = try reader.watermarks(configuration.changes, 0)
        var found: Lineage?
        try reader.records(configuration.changes, 0, from: low, to: high) { record in
            guard unsafe record.key.elementsEqual(key), unsafe record.value.count == 16 else { return false }
            found = unsafe Lineage(
                high: UInt64(littleEndian: record.value.loadUnaligned(as: UInt64.self)),
                low: UInt64(littleEndian: record.value.loadUnaligned(fromByteOffset: 8, as: UInt64.self)))
            return false
        }
        return found
    }
}
