internal import CRdkafka
internal import Foundation
import Service
import Transactions

/// The workers' list in its topic: this worker's beats, what it hears of the others, and its claims.
///
/// `@unchecked Sendable`: the roster is guarded by the condition; the thread alone uses the clients.
@safe final class RosterTopic: @unchecked Sendable {
    private let name: String
    private let worker = UUID().uuidString.lowercased()
    private let log: Log
    private let producer: KafkaClient
    private let consumer: KafkaClient
    private let topic: OpaquePointer
    private let reader: PartitionReader
    private let condition = NSCondition()
    private var roster: Roster
    private var isEnding = false
    /// Takes a slot where one is free, of so many, and is told of it.
    private var wish: (slots: Int?, given: @Sendable (_ slot: Int) -> Void)?
    /// Until when a claim of ours may be on its way, microseconds of the steady clock, as is all below.
    private var claimEnds: Int64 = 0
    private var nextBeat: Int64 = 0
    /// When our last beat came back, and when that was sent.
    private var heardAt: Int64 = 0
    private var heardSent: Int64 = 0
    /// When the scoring loop last asked for something to do.
    private var loopSeen = monotonicMicroseconds()
    private var isStuck = false
    private var isSilent = false

    /// How long between two beats of one worker.
    private static let interval: Int64 = 100_000
    /// A scoring loop that has done nothing for so long is no worker any more.
    private static let stuck: Int64 = 30_000_000
    private static let claimPatience: Int64 = 1_000_000

    init(_ configuration: KafkaConfiguration, log: Log) throws {
        name = configuration.workers
        self.log = log
        roster = Roster(worker: worker)
        let hooks = ClientHooks()
        hooks.log = log
        producer = try KafkaClient(.producer, configuration.beating(), hooks: hooks)
        consumer = try KafkaClient(.consumer, configuration.reading("roster", fetchWait: 100), hooks: hooks)
        unsafe topic = try unsafe producer.topic(name)
        guard try consumer.partitions(of: name, waitingSeconds: 5) != nil else {
            throw KafkaLogError.missingTopic(name)
        }
        let (low, high) = try consumer.watermarks(name, 0)
        // Who lives has beaten in the last second; the claims of those that have died stand a little further back.
        reader = try PartitionReader(consumer, topic: name, partition: 0, from: max(low, high - 4096))
        let thread = Thread { [weak self] in
            while let self, self.step() {}
        }
        thread.name = "roster"
        thread.start()
    }

    /// The scoring loop goes on.
    func loopLives() { locked { loopSeen = monotonicMicroseconds() } }

    func fallSilent(_ isSilent: Bool) { locked { self.isSilent = isSilent } }

    /// Others that wait for a slot.
    var standbys: Int { locked { roster.standbys } }
    var slot: Int? { locked { roster.seat?.slot } }

    /// Takes a slot from whoever has it. Returns when all others can know.
    func take(_ slot: Int, seconds: Double = 10) throws {
        send(.init(worker: worker, kind: .claim, slot: slot))
        let deadline = Date(timeIntervalSinceNow: seconds)
        try locked {
            while roster.holder(of: slot) != worker {
                guard condition.wait(until: deadline) else { throw KafkaLogError.noEnd(topic: name, partition: 0) }
            }
        }
    }

    /// From now on takes one of so many slots, of any number where `slots` is `nil`, when nobody works in it, and again when
    /// it was lost. `given` is called on the roster's thread.
    func wait(forOneOf slots: Int?, given: @escaping @Sendable (_ slot: Int) -> Void) {
        locked { wish = (slots, given) }
    }

    /// Whether the slot is another's by now: known when a beat that is sent from now on has come back.
    func isTaken(_ slot: Int, seconds: Double = 5) -> Bool {
        let (asked, deadline) = (monotonicMicroseconds(), Date(timeIntervalSinceNow: seconds))
        return locked {
            while heardSent < asked, condition.wait(until: deadline) {}
            return roster.holder(of: slot) != worker
        }
    }

    /// A planned stop: whoever waits may have the slot at once.
    func leave() {
        let seat: (slot: Int, epoch: UInt64)? = locked {
            isEnding = true
            return roster.seat
        }
        if let seat { send(.init(worker: worker, kind: .leave, slot: seat.slot, epoch: seat.epoch)) }
        unsafe rd_kafka_flush(producer.handle, 1000)
    }

    private func locked<Result>(_ body: () throws -> Result) rethrows -> Result {
        condition.lock()
        defer { condition.unlock() }
        return try body()
    }

    // MARK: the thread

    /// Beats, listens, claims. Returns whether to go on.
    private func step() -> Bool {
        unsafe rd_kafka_poll(producer.handle, 0)
        do {
            _ = try reader.read(waitMilliseconds: 10) { record in
                hear(record)
                return true
            }
        } catch {
            log.warning("the list of workers cannot be read", ["because": "\(error)"])
            Thread.sleep(forTimeInterval: 0.2)
        }
        let (notices, isEnding) = locked { (due(monotonicMicroseconds()), self.isEnding) }
        guard !isEnding else { return false }
        notices.forEach(send)
        return true
    }

    private func due(_ now: Int64) -> [Roster.Notice] {
        var notices: [Roster.Notice] = []
        let seat = roster.seat
        if now >= nextBeat {
            nextBeat = now + Self.interval
            // A worker whose loop is stuck leaves its slot to others.
            let isStuck = seat != nil && now - loopSeen > Self.stuck
            if isStuck, !self.isStuck { log.error("the scoring loop does not go on", ["slot": seat?.slot ?? -1]) }
            self.isStuck = isStuck
            if !isStuck, !isSilent {
                notices.append(.init(worker: worker, kind: .beat, slot: seat?.slot, epoch: seat?.epoch, sentAt: now))
            }
        }
        if let wish, seat == nil, now > claimEnds, let slot = roster.freeSlot(of: wish.slots) {
            claimEnds = now + Self.claimPatience
            log.info("claims a slot", ["slot": slot])
            notices.append(.init(worker: worker, kind: .claim, slot: slot, epoch: roster.epoch(of: slot)))
        }
        return notices
    }

    private func send(_ notice: Roster.Notice) {
        do {
            let code = try unsafe JSONEncoder().encode(notice).withUnsafeBytes { bytes in
                unsafe rd_kafka_produce(
                    topic, 0, Int32(RD_KAFKA_MSG_F_COPY), UnsafeMutableRawPointer(mutating: bytes.baseAddress),
                    bytes.count, nil, 0, nil)
            }
            // The brokers are away: nobody hears anybody now.
            if code != 0 { throw KafkaError("produce to \(name)", code: rd_kafka_last_error()) }
        } catch { log.debug("a notice to the other workers was dropped", ["because": "\(error)"]) }
    }

    private func hear(_ record: PartitionReader.Record) {
        let notice: Roster.Notice
        do { notice = try unsafe JSONDecoder().decode(Roster.Notice.self, from: Data(record.value)) } catch {
            return log.debug("a record in the list of workers is none of ours", ["offset": record.offset])
        }
        let given: Int? = locked {
            var delay: Int64 = 0
            if notice.worker == worker, notice.kind == .beat, let sent = notice.sentAt {
                let now = monotonicMicroseconds()
                delay = max(now - sent, now - heardAt)
                (heardAt, heardSent) = (now, sent)
            }
            let before = roster.seat?.slot
            roster.hear(notice, offset: UInt64(record.offset) + 1, delay: delay)
            condition.broadcast()
            let slot = roster.seat?.slot
            if notice.kind == .claim, notice.worker == worker { claimEnds = 0 }
            return slot == before ? nil : slot
        }
        if let given, let wish = locked({ wish }) {
            log.info("the slot is ours", ["slot": given])
            wish.given(given)
        }
    }
}
