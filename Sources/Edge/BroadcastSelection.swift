/// Which events of a batch are shown live, in the order of the log: its flagged ones, up to a bound, and of the others
/// the newest that a page still has room for.
///
/// Flagged events come before room: a page is watched for their sake. Where even they pass the bound, the newest stay.
struct BroadcastSelection {
    /// Together with what waits already they must fit a stream's queue, or a slow client would be cut off.
    static let flaggedMax = 200
    /// A batch of thousands of events is shown by its newest ones: a page cannot show more.
    static let eventsMax = 50

    private var flaggedToSkip: Int
    private var othersToSkip: Int

    /// - Parameters:
    ///   - flagged: the flagged events of the batch.
    ///   - others: its other events.
    init(flagged: Int, others: Int) {
        flaggedToSkip = max(0, flagged - Self.flaggedMax)
        othersToSkip = max(0, others - max(0, Self.eventsMax - flagged))
    }

    /// Whether the next event of the batch is shown.
    mutating func takes(flagged: Bool) -> Bool {
        if flagged {
            flaggedToSkip -= 1
            return flaggedToSkip < 0
        }
        othersToSkip -= 1
        return othersToSkip < 0
    }
}
