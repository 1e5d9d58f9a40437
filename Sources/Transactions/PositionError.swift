/// A changelog's position and the input do not go together, with the remedy.
package enum PositionError: Error, CustomStringConvertible, Equatable {
    case deleted(partition: Int, position: UInt64, first: UInt64)
    case beyondEnd(partition: Int, position: UInt64, end: UInt64)

    package var description: String {
        switch self {
        case .deleted(let partition, let position, let first):
            "partition \(partition): the input's retention has deleted offsets \(position) to \(first - 1) before they "
                + "were scored; --accept-gap goes on behind them"
        case .beyondEnd(let partition, let position, let end):
            "partition \(partition): scored up to \(position), but the input ends at \(end): it was deleted and made "
                + "again, or cut; begin a new pipeline name"
        }
    }
}
