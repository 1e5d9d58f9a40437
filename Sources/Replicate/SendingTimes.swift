/// How long ago heartbeats were sent, whatever the clocks of two machines show.
///
/// A heartbeat carries its sender's time by a clock that nobody sets. The difference to the reader's own such clock is
/// constant but for the way that the heartbeat took: what is over the least difference that was seen of this sender is
/// how long it waited, in the sender, on the bus, or for a reader that stood still.
///
/// The least is believed once a later heartbeat has shown about the same. One that comes earlier than could be was read
/// after others which had waited: of them nothing is known, nor of itself.
package struct SendingTimes: Sendable {
    private struct Sender {
        var least: Int64
        /// When the least was read, and when it was sent.
        var readAt: Int64
        var sentAt: Int64
        var isConfirmed = false
        var lastRead: Int64
    }

    private var senders: [UInt64: Sender] = [:]

    /// Earlier by less than this is the way's own variation.
    static let toleranceMicroseconds: Int64 = 50_000
    /// Two machines' clocks run apart by less than a part in so many.
    static let driftParts: Int64 = 1024
    static let sendersMax = 256

    package init() {}

    /// Microseconds since a heartbeat was sent, less the least time that the way has taken; `nil` where that is not known
    /// yet.
    ///
    /// - Parameters:
    ///   - sent: by the sender's clock that nobody sets, microseconds.
    ///   - read: by this machine's.
    package mutating func age(of sender: UInt64, sent: Int64, read: Int64) -> Int64? {
        let difference = read - sent
        guard var known = senders[sender] else {
            if senders.count >= Self.sendersMax, let oldest = senders.min(by: { $0.value.lastRead < $1.value.lastRead })
            {
                senders[oldest.key] = nil
            }
            senders[sender] = Sender(least: difference, readAt: read, sentAt: sent, lastRead: read)
            return nil
        }
        defer { senders[sender] = known }
        known.lastRead = read
        guard difference >= known.least - Self.toleranceMicroseconds else {
            known = Sender(least: difference, readAt: read, sentAt: sent, lastRead: read)
            return nil
        }
        // The same one again confirms nothing.
        if sent > known.sentAt { known.isConfirmed = true }
        let least = known.least + max(0, read - known.readAt) / Self.driftParts
        if difference < least {
            known.least = difference
            known.readAt = read
            known.sentAt = sent
        }
        return known.isConfirmed ? max(0, difference - least) : nil
    }
}
