import Changes

/// A log in one file, as `tideline log export` writes it: to move it to another machine, or into Kafka.
///
/// Frames of kind (u8), partition (u32), position (u64), length (u32), payload and CRC32C of all that (u32):
/// - `h`: version (u16), lineage (2 × u64), each partition's input end and last seq (u32, then 2 × u64 each), the
///   pipeline's name.
/// - `i`, position the first offset: events: count (u32), each one's append time (i64) and length (u32), their bytes.
/// - `t`, position the seq: one transaction: lengths (3 × u32) and bytes of the change batch, the scores, the dead letters.
/// - `e`, the last, position the number of frames before it.
///
/// Of each partition all input stands before its transactions, and those in the order of seq.
package enum LogArchive {
    static let version: UInt16 = 1
    static let header = UInt8(ascii: "h")
    static let input = UInt8(ascii: "i")
    static let transaction = UInt8(ascii: "t")
    static let end = UInt8(ascii: "e")
    static let headBytes = 17
    static let payloadBytesMax = 64 << 20

    /// Where a partition ends.
    package struct End: Equatable, Sendable {
        package var input: UInt64
        package var seq: UInt64

        package init(input: UInt64, seq: UInt64) {
            self.input = input
            self.seq = seq
        }
    }

    package struct Header: Equatable, Sendable {
        package var lineage: Lineage
        package var pipeline: String
        /// By partition.
        package var ends: [End]
    }

    package struct Transaction: Sendable {
        package var partition: Int
        package var seq: UInt64
        package var changes: [UInt8]
        package var scores: [UInt8]
        package var deadLetters: [UInt8]
    }

    /// Events of one partition, in order.
    package struct Events: Sendable {
        package var partition: Int
        package var first: UInt64
        package var times: [Int64] = []
        package var ends: [Int] = []
        package var bytes: [UInt8] = []

        package var count: Int { ends.count }

        package func withEvent<Result>(
            _ index: Int, _ body: (UnsafeRawBufferPointer) throws -> Result
        ) rethrows -> Result {
            try unsafe bytes.withUnsafeBytes {
                try unsafe body(
                    UnsafeRawBufferPointer(rebasing: $0[(index == 0 ? 0 : ends[index - 1])..<ends[index]]))
            }
        }
    }

    package enum Failure: Error, CustomStringConvertible, Equatable {
        case notAnArchive(String)
        case unknownVersion(UInt16)
        case damaged(path: String, frame: UInt64)
        case holes(String)

        package var description: String {
            switch self {
            case .notAnArchive(let path): "\(path) is no export of a log"
            case .unknownVersion(let version):
                "the export has version \(version), this program reads \(LogArchive.version)"
            case .damaged(let path, let frame):
                "\(path) is damaged or cut off at frame \(frame): export the log again, or copy the file again"
            case .holes(let what): "the log has a hole: \(what)"
            }
        }
    }
}
