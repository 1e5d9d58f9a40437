import Changes

/// One partition's order of apply at a replica: a pure state machine over seqs, without I/O.
///
/// seq ≤ applied: drop. seq = applied + 1: apply. Beyond: hold, bounded, and ask for what is missing.
package struct ReplicaFeed: Sendable {
    package enum Verdict: Equatable, Sendable {
        case drop
        case apply
        case hold
    }

    package struct Limits: Sendable {
        package var heldBytesMax = 32 << 20
        package var repairTimeoutMicroseconds: Int64 = 1_000_000
        /// Batches that one repair asks for.
        package var repairBatchesMax: UInt64 = 512

        package init() {}
    }

    package private(set) var applied: UInt64
    /// The furthest seq that the log is known to have.
    package private(set) var head: UInt64 = 0
    private var held: [UInt64: [UInt8]] = [:]
    private var heldBytes = 0
    private var repairDeadline: Int64 = 0
    /// The end of the repair that is under way; 0 where none is.
    private var repairThrough: UInt64 = 0
    private var lastProgress: Int64 = 0
    /// Since when a batch is known to be missing; `nil` where none is.
    package private(set) var gapSince: Int64?
    /// Repairs asked for in a row without an answer.
    package private(set) var unanswered = 0
    private let limits: Limits

    package init(applied: UInt64, limits: Limits = .init()) {
        self.applied = applied
        self.limits = limits
    }

    package var isComplete: Bool { applied >= head }

    package var heldCount: Int { held.count }

    /// Says what to do with a batch that arrived.
    package func verdict(_ seq: UInt64) -> Verdict {
        if seq <= applied || held[seq] != nil { return .drop }
        return seq == applied + 1 ? .apply : .hold
    }

    /// The batch was applied. Returns the next one where it is held already.
    package mutating func didApply(_ seq: UInt64, now: Int64) -> [UInt8]? {
        precondition(seq == applied + 1, "a replica applies its log in order")
        applied = seq
        head = max(head, seq)
        unanswered = 0
        lastProgress = now
        if let next = held.removeValue(forKey: applied + 1) {
            heldBytes -= next.count
            return next
        }
        if isComplete {
            gapSince = nil
            repairThrough = 0
            repairDeadline = 0
        }
        return nil
    }

    /// Keeps a batch that came too early. Over the bound the furthest goes: a repair brings it again.
    package mutating func hold(_ seq: UInt64, _ encoded: [UInt8], now: Int64) {
        head = max(head, seq)
        if gapSince == nil { gapSince = now }
        held[seq] = encoded
        heldBytes += encoded.count
        while heldBytes > limits.heldBytesMax, let furthest = held.keys.max() {
            heldBytes -= held.removeValue(forKey: furthest)?.count ?? 0
        }
    }

    /// A heartbeat said how far the log is. `repair` says when what is not there is missing.
    package mutating func heard(head seq: UInt64, now: Int64) {
        head = max(head, seq)
        if !isComplete, gapSince == nil { gapSince = now }
        if isComplete { gapSince = nil }
    }

    /// Whether an answer to a repair is awaited.
    package var isRepairing: Bool { repairThrough > applied }

    /// What to ask for now: `(after, through]`; `nil` where nothing is missing or an answer is awaited.
    ///
    /// A replica that is behind but moves on is not missing anything; one whose repair has ended and that is still
    /// behind asks on at once.
    package mutating func repair(now: Int64, patienceMicroseconds: Int64 = 200_000) -> (after: UInt64, through: UInt64)?
    {
        guard !isComplete, let since = gapSince else { return nil }
        let ended = repairThrough > 0 && applied >= repairThrough
        guard ended || (now - max(since, lastProgress) >= patienceMicroseconds && now >= repairDeadline) else {
            return nil
        }
        let firstHeld = held.keys.min() ?? .max
        let through = min(head, firstHeld == .max ? head : firstHeld - 1, applied + limits.repairBatchesMax)
        guard through > applied else { return nil }
        repairDeadline = now + limits.repairTimeoutMicroseconds
        repairThrough = through
        unanswered += 1
        return (applied, through)
    }
}
