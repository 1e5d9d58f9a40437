import Changes
import Core
import Service

/// How far scoring is behind a log's input, read from the log itself: records, and the age of the oldest.
///
/// Both are 0 where nothing waits: offsets that hold no record, such as transaction markers, are not counted.
struct LogLag {
    struct Partition {
        var number: Int
        var records: UInt64
        /// Whether there are at least so many.
        var isAtLeast: Bool
        var ageMilliseconds: Int64
    }

    private(set) var partitions: [Partition] = []
    /// Records that are counted one by one; beyond it offsets are counted.
    private static let countedMax: UInt64 = 20_000

    init(_ reader: any LogReader, now: Int64 = SystemClock().now) throws {
        for number in 0..<reader.partitions {
            let end = try reader.inputEnd(of: number)
            let seq = try reader.changelogEnd(of: number)
            var position: UInt64 = 0
            if seq > 0 {
                try unsafe reader.changelog(of: number, after: seq - 1) { _, encoded in
                    position = try unsafe ChangeBatch(decoding: encoded).header.endOffset
                    return false
                }
            }
            var found = Partition(number: number, records: 0, isAtLeast: false, ageMilliseconds: 0)
            var last = position
            try unsafe reader.input(of: number, from: position) { offset, _, time in
                guard offset < end else { return false }
                if found.records == 0 { found.ageMilliseconds = max(0, (now - time) / 1000) }
                found.records += 1
                last = offset + 1
                return found.records < Self.countedMax
            }
            if found.records == Self.countedMax, end > last {
                found.records += end - last
                found.isAtLeast = true
            }
            partitions.append(found)
        }
    }

    var records: UInt64 { partitions.reduce(0) { $0 + $1.records } }
    var ageMilliseconds: Int64 { partitions.map(\.ageMilliseconds).max() ?? 0 }

    var text: String {
        partitions.map {
            "partition \($0.number)  \($0.isAtLeast ? "about " : "")\($0.records) records wait, the oldest for "
                + "\($0.ageMilliseconds) ms"
        }.joined(separator: "\n")
    }

    var object: [String: Any] {
        [
            "records": records, "ageMilliseconds": ageMilliseconds,
            "partitions": partitions.map {
                ["partition": $0.number, "records": $0.records, "ageMilliseconds": $0.ageMilliseconds] as [String: Any]
            },
        ]
    }
}
