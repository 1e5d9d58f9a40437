/// Who works in which slot, as all workers read it from one topic: a pure state machine.
///
/// A slot is taken by compare and swap on the topic: a claim names the epoch that it replaces, the first one in the log's
/// order wins, and its offset is the new epoch. A worker beats; whoever waits for a slot counts its own beats, read back from
/// the topic, against the holder's. So nobody is called silent while the brokers are away, and no clocks are compared. A claim
/// made in error is harmless: the transactional ids fence.
///
/// Offsets are those of the topic plus one, so that 0 is the epoch before the first claim.
package struct Roster: Sendable {
    /// What a worker says.
    package struct Notice: Codable, Equatable, Sendable {
        package enum Kind: String, Codable, Sendable {
            /// It lives: in a slot, or beside all, waiting for one.
            case beat
            case claim
            /// A planned stop: whoever waits may have the slot at once.
            case leave
        }

        package var worker: String
        package var kind: Kind
        package var slot: Int?
        /// Of a beat: the offset of the claim by which the slot is held. Of a claim: the epoch that it replaces, `nil` whatever
        /// it is.
        package var epoch: UInt64?
        /// By the sender's own steady clock, microseconds; for its own eyes.
        package var sentAt: Int64?

        package init(worker: String, kind: Kind, slot: Int? = nil, epoch: UInt64? = nil, sentAt: Int64? = nil) {
            self.worker = worker
            self.kind = kind
            self.slot = slot
            self.epoch = epoch
            self.sentAt = sentAt
        }
    }

    private struct Holder {
        var worker: String
        var epoch: UInt64
        /// Our beats since the holder's last one: those that came back in time, and all.
        var missed = 0
        var missedAtAll = 0
        var hasLeft = false
    }

    private let me: String
    private var holders: [Int: Holder] = [:]
    /// Workers that wait, by our beats since their last one.
    private var waiting: [String: Int] = [:]
    /// Our beats that came back in time, one after the other, and all.
    private var steadyBeats = 0
    private var beats = 0

    /// After so many beats of ours a holder that has not beaten is silent, and one who was not heard is not there.
    package static let patience = 6
    /// A beat of ours that took longer, or came longer after the one before, does not count, microseconds.
    package static let timely: Int64 = 400_000
    /// After our own beats stood still for so long, the brokers' or our own fault, others are given this many beats more.
    package static let outage: Int64 = 1_000_000
    private static let grace = 20
    /// Where our own beats are late for good, as on a machine that has too much to do, so many of them are enough.
    private static let patienceAtAll = 50

    package init(worker: String) { me = worker }

    /// A notice of the topic, in its order. `delay`: of our own beats, how long it took to come back, or came after the one
    /// before, whichever is longer, microseconds.
    package mutating func hear(_ notice: Notice, offset: UInt64, delay: Int64 = 0) {
        switch notice.kind {
        case .beat:
            if notice.worker == me { count(delay) }
            guard let slot = notice.slot, let epoch = notice.epoch else {
                waiting[notice.worker] = 0
                return
            }
            waiting[notice.worker] = nil
            let known = holders[slot]
            // One that was replaced may not know it yet; a last beat may come after the farewell.
            guard epoch > known?.epoch ?? 0 || epoch == known?.epoch && known?.hasLeft == false else { return }
            holders[slot] = Holder(worker: notice.worker, epoch: epoch)
        case .claim:
            guard let slot = notice.slot, notice.epoch == nil || notice.epoch == epoch(of: slot) else { return }
            waiting[notice.worker] = nil
            holders[slot] = Holder(worker: notice.worker, epoch: offset)
        case .leave:
            guard let slot = notice.slot, holders[slot]?.worker == notice.worker else { return }
            holders[slot]?.hasLeft = true
        }
    }

    /// One more beat of our own has come back.
    private mutating func count(_ delay: Int64) {
        let isTimely = delay < Self.timely
        beats += 1
        steadyBeats = isTimely ? steadyBeats + 1 : 0
        for (slot, holder) in holders where holder.worker != me {
            holders[slot]?.missed = delay > Self.outage ? -Self.grace : holder.missed + (isTimely ? 1 : 0)
            holders[slot]?.missedAtAll += 1
        }
        for (worker, missed) in waiting where worker != me {
            waiting[worker] = missed < Self.patience ? missed + 1 : nil
        }
    }

    /// By which claim a slot is held; 0 where none was heard.
    package func epoch(of slot: Int) -> UInt64 { holders[slot]?.epoch ?? 0 }

    package func holder(of slot: Int) -> String? { holders[slot]?.worker }

    /// The slot that is ours and the claim by which it is.
    package var seat: (slot: Int, epoch: UInt64)? {
        holders.first { $0.value.worker == me }.map { ($0.key, $0.value.epoch) }
    }

    /// The first of so many slots that nobody works in; of any number where there is no limit.
    package func freeSlot(of count: Int?) -> Int? {
        // Who has just come must have listened before it says that nobody is there.
        let hasListened = steadyBeats >= Self.patience || beats >= Self.patienceAtAll
        // Of any number one is free that nobody was ever heard of in.
        let slots = count ?? (holders.keys.max() ?? -1) + 2
        return (0..<slots).first { slot in
            guard let holder = holders[slot] else { return hasListened }
            let isSilent = holder.missed >= Self.patience || holder.missedAtAll >= Self.patienceAtAll
            return holder.hasLeft || holder.worker != me && isSilent
        }
    }

    /// Others that wait for a slot.
    package var standbys: Int { waiting.count { $0.key != me } }
}
