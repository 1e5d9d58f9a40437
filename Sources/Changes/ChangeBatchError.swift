/// Why bytes are not a batch that this reader can apply.
package enum ChangeBatchError: Error, Equatable, CustomStringConvertible {
    case truncated
    case notABatch
    /// A reader that meets a version it does not know stops; it never guesses.
    case unknownVersion(UInt16)
    case checksumMismatch
    case unknownCompression(UInt8)
    case bodyTooLarge(bytes: Int)
    case decompressionFailed
    case malformedBody
    case inconsistentCounts

    package var description: String {
        switch self {
        case .truncated: "the batch ends before its announced length"
        case .notABatch: "the bytes do not begin as a change batch does"
        case .unknownVersion(let version):
            "the batch has version \(version), this program reads \(ChangeBatchHeader.version): upgrade the reader first"
        case .checksumMismatch: "the batch's CRC-32C does not match its bytes"
        case .unknownCompression(let raw): "the batch is compressed by method \(raw), which is unknown here"
        case .bodyTooLarge(let bytes):
            "the batch announces a body of \(bytes) bytes, over the limit or over what its length can hold"
        case .decompressionFailed: "the batch's body does not decompress to its announced length"
        case .malformedBody: "the batch's body is not a sequence of changes"
        case .inconsistentCounts: "the batch's counts do not add up to its range of offsets"
        }
    }
}
