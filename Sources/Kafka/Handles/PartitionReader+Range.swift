internal import CRdkafka
import Service

extension KafkaClient {
    /// Visits the committed records of [from, to) of a partition, while `visit` says so.
    func records(
        _ topic: String, _ partition: Int, from: Int64, to end: Int64,
        _ visit: (PartitionReader.Record) throws -> Bool
    ) throws {
        guard from < end else { return }
        try PartitionReader(self, topic: topic, partition: partition, from: from).drain(
            topic, partition, to: end, visit)
    }
}

extension PartitionReader {
    private static let patienceMicroseconds: Int64 = 30_000_000

    /// Visits the records that are fetched already, while `visit` says so. Returns whether it said no.
    func visitFetched(keepsLast: Bool, _ visit: (Record) throws -> Bool) throws -> Bool {
        guard fetched > 0 else { return false }
        var going = true
        _ = try read(waitMilliseconds: 0) { record in
            guard going else { return false }
            going = try visit(record)
            return going || !keepsLast
        }
        return !going
    }

    /// Visits records up to `end`, while `visit` says so. Ends at the position or at the partition's end: what lies
    /// before `end` may be markers, which are never delivered. `keepsLast`: a record for which `visit` says no is handed
    /// over again.
    func drain(
        _ topic: String, _ partition: Int, to end: Int64, keepsLast: Bool = false, _ visit: (Record) throws -> Bool
    ) throws {
        var going = true
        var next: Int64 = 0
        var patience = SystemClock().now + Self.patienceMicroseconds
        while going, next < end, endOffset < end {
            // The call waits its whole time out where fewer records than it has room for are there.
            let any = try read(waitMilliseconds: 2) { record in
                guard going, record.offset < end else {
                    going = false
                    return false
                }
                next = record.offset + 1
                going = try visit(record)
                return going || !keepsLast
            }
            if any { patience = SystemClock().now + Self.patienceMicroseconds }
            guard SystemClock().now < patience else {
                throw KafkaError("read \(topic) [\(partition)] to its end", code: RD_KAFKA_RESP_ERR__TIMED_OUT)
            }
        }
    }
}
