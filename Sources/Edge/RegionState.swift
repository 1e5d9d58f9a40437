import Replicate

/// What a region's answers are worth.
package enum RegionState: String, Sendable {
    /// No complete view yet: nothing to answer from.
    case bootstrapping
    /// Everything that the log is known to have is here, and a heartbeat said so that was sent within three
    /// seconds.
    case fresh
    /// Batches are missing and have been asked for.
    case repairing
    /// No heartbeat for three seconds.
    case stale
    /// The bus cannot be reached.
    case isolated
}

/// How a region stood at one moment. Times are microseconds; `now` and what is compared with it are by this machine's
/// clock, so that skew between machines does not make an answer look fresher.
package struct RegionStatus: Sendable {
    package var hasView = false
    package var isConnected = false
    package var isComplete = false
    package var isRepairing = false
    /// This replica's digest is not the log's: it serves until one that is made anew takes its place, and is not fresh.
    package var hasDiverged = false
    /// How many partitions the log has; 0 where nobody has said so.
    package var partitions = 0
    /// When what was last heard of each partition was sent: by this machine's clock, and by the core's. Cores that share a log each
    /// speak of their own partitions: the silence of one is not covered by another's voice.
    package var heard: [UInt32: (at: Int64, sentAt: Int64)] = [:]
    /// The same of the partition that was silent longest; 0 where one was never heard of.
    package var heardAt: Int64 { isHeard ? heard.values.reduce(.max) { min($0, $1.at) } : 0 }
    /// The same by the core's clock.
    package var heardSentAt: Int64 { isHeard ? heard.values.reduce(.max) { min($0, $1.sentAt) } : 0 }
    private var isHeard: Bool { partitions > 0 && heard.count >= partitions }
    /// When this replica last held everything that the log was known to have; 0 for never.
    package var completeAt: Int64 = 0
    /// The core's clock at that moment: what an answer is as of.
    package var asOf: Int64 = 0
    /// The log's heads as last heard, by partition.
    package var heads: [UInt32: UInt64] = [:]

    package static let silenceMicroseconds: Int64 = 3_000_000

    /// A heartbeat spoke of a partition. One that was sent before what is known says nothing new of how fresh this is.
    mutating func hear(_ head: Heartbeat.Head, sent: Int64, sentAt: Int64) {
        heads[head.partition] = head.seq
        guard heard[head.partition].map({ $0.at <= sent }) ?? true else { return }
        heard[head.partition] = (sent, sentAt)
    }

    /// This replica holds what the last heartbeat said: both clocks' moments move on together.
    mutating func becameComplete() {
        completeAt = heardAt
        asOf = heardSentAt
    }

    package func state(now: Int64) -> RegionState {
        if !hasView { return .bootstrapping }
        if !isConnected { return .isolated }
        if hasDiverged { return .stale }
        if heardAt == 0 || now - heardAt > Self.silenceMicroseconds { return .stale }
        if isComplete || now - completeAt <= Self.silenceMicroseconds { return .fresh }
        return isRepairing ? .repairing : .stale
    }

    /// How old the newest knowledge may be, in milliseconds; `nil` where there never was any.
    package func stalenessMilliseconds(now: Int64) -> Int64? {
        completeAt == 0 ? nil : max(0, (now - completeAt) / 1000)
    }
}
