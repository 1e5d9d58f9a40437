import Changes
import Core
import Service
import Testing
import Transactions

@testable import Simulation

/// Runs what a test says while a request is under way.
private final class Script: Interleaving {
    let time: SimulatedClock.Time
    var brokers: SimulatedBrokers?
    /// What becomes of the next requests of a kind, in order.
    var fates: [(request: String, fate: RequestFate)] = []
    /// Runs once, when a client waits in vain for an answer.
    var meanwhile: (() throws -> Void)?
    var failure: (any Error)?

    init(_ time: SimulatedClock.Time) { self.time = time }

    var now: Int64 { time.now }
    var runsBeside: Bool { false }
    var lateness: Int64 { 1_000_000 }

    func pass(_ client: SimulatedClient, _ step: StaticString) throws(SimulatedFailure) { advance(1000) }

    func fate(_ request: StaticString) -> RequestFate {
        guard let index = fates.firstIndex(where: { $0.request == "\(request)" }) else { return .answered }
        return fates.remove(at: index).fate
    }

    func wait(_ client: SimulatedClient, microseconds: Int64) throws(SimulatedFailure) {
        if let body = meanwhile {
            meanwhile = nil
            do { try body() } catch { failure = error }
        }
        advance(microseconds)
    }

    private func advance(_ microseconds: Int64) {
        time.now += microseconds
        brokers?.advance()
    }
}

@Suite struct TransactionalLogTests {
    private let time = SimulatedClock.Time()
    private let script: Script
    private let brokers: SimulatedBrokers

    init() {
        script = Script(time)
        brokers = SimulatedBrokers(lineage: Lineage(high: 1, low: 2), partitions: 1, time: time)
        script.brokers = brokers
    }

    private func log(slot: Int) throws -> TransactionalLog<SimulatedClient> {
        try TransactionalLog(
            SimulatedClient(brokers, slot: slot, incarnation: slot, world: script), slot: slot,
            log: Log(role: "test", minimum: .error), clock: SteadyClock(SimulatedClock(time)))
    }

    private func commit(_ log: TransactionalLog<SimulatedClient>, seq: UInt64, _ text: String) throws -> CommitOutcome {
        try Array(text.utf8).withUnsafeBytes { bytes in
            let none = UnsafeRawBufferPointer(start: nil, count: 0)
            return try log.commit(
                StagedCommit(
                    partition: 0, seq: seq, endOffset: seq, changes: bytes, scores: none,
                    scoreEnds: UnsafeBufferPointer(start: nil, count: 0), entities: none, deadLetters: none))
        }
    }

    private var held: [String] {
        brokers.changelogs[0].filter { $0.state == .committed || $0.state == .prepared }
            .map { String(decoding: $0.changes, as: UTF8.self) }
    }

    /// Nobody has told: it took effect, or it did not, and the changelog says which.
    @Test(arguments: [(RequestFate.lost, CommitOutcome.aborted), (.answerLost, .committed), (.late, .aborted)])
    func anUncertainOutcomeIsReadFromTheChangelog(_ fate: RequestFate, _ outcome: CommitOutcome) throws {
        let log = try log(slot: 0)
        try log.takeOver(partition: 0)
        #expect(try commit(log, seq: 1, "first") == .committed)
        script.fates = [("commit", fate)]
        let second = try commit(log, seq: 2, "second")
        // A late request takes effect before both ids are initialised again, or not at all.
        #expect(fate == .late ? second == .committed : second == outcome)
        #expect(held == (second == .committed ? ["first", "second"] : ["first"]))
    }

    /// While a worker waits for an answer in vain, another takes the partition and commits a batch of the same seq: that is
    /// not the worker's own. (Simulation: seed 4.)
    @Test func anotherWorkersBatchOfTheSameSeqIsNotOurs() throws {
        let (log, other) = (try log(slot: 0), try log(slot: 1))
        try log.takeOver(partition: 0)
        #expect(try commit(log, seq: 1, "first") == .committed)
        script.fates = [("commit", .lost)]
        script.meanwhile = {
            try other.takeOver(partition: 0)
            #expect(try commit(other, seq: 2, "theirs") == .committed)
        }
        #expect(try commit(log, seq: 2, "ours") == .lost)
        #expect(script.failure == nil && held == ["first", "theirs"])
        #expect(log.changelogEnd(of: 0) == nil)
    }

    /// Another commits while we have nothing to commit: we stop vouching for our end. (Simulation: seeds 133 and 20006.)
    @Test func anEndIsVouchedForAsLongAsNobodyElseCommits() throws {
        let (log, other) = (try log(slot: 0), try log(slot: 1))
        try log.takeOver(partition: 0)
        try log.seek(partition: 0, to: 0)
        #expect(try commit(log, seq: 1, "first") == .committed)
        #expect(log.vouchedEnd(of: 0) == 1)
        time.now += 5_000_000
        #expect(log.vouchedEnd(of: 0) == nil, "nothing was heard of the brokers for 5 s")
        let batch = EventBatch(eventsMax: 8)
        while try log.next(into: batch, waitMicroseconds: 0) != .idle {}
        #expect(log.vouchedEnd(of: 0) == 1, "it has looked")
        try other.takeOver(partition: 0)
        #expect(try commit(other, seq: 2, "theirs") == .committed)
        time.now += 2_000_000
        brokers.advance()
        _ = try log.next(into: batch, waitMicroseconds: 0)
        #expect(log.vouchedEnd(of: 0) == nil && log.changelogEnd(of: 0) == nil)
    }

    /// Between a takeover and its first look at the input a worker stands still, and another scores what came: the view has
    /// followed that, and the input is not cut. (`Tests/kafka-fire`, seed 20261129: the partition stood still for good.)
    @Test func whatAnotherScoredSinceATakeoverIsInTheInput() throws {
        let (log, other) = (try log(slot: 0), try log(slot: 1))
        try log.takeOver(partition: 0)
        for _ in 0..<3 { brokers.append(0, Array("{}".utf8)) }
        try other.takeOver(partition: 0)
        #expect(try commit(other, seq: 1, "theirs") == .committed)
        try log.seek(partition: 0, to: 3)
        #expect(log.halted.isEmpty)
        #expect(try commit(log, seq: 1, "ours") == .lost)
        try other.seek(partition: 0, to: 4)
        #expect(other.halted.keys.sorted() == [0], "beyond the input's end as it is now")
    }

    /// A broker takes a transaction for complete and has not written its marker: the batch was acknowledged, and counts before
    /// anyone scores its events again. (`Tests/kafka-fire`, seed 20261130: they were scored twice, and regions differed.)
    @Test func aMarkerThatWasNeverWrittenIsWrittenByWhoTakesOver() throws {
        let (log, other) = (try log(slot: 0), try log(slot: 1))
        try log.takeOver(partition: 0)
        #expect(try commit(log, seq: 1, "first") == .committed)
        time.now += 1000
        brokers.advance()
        brokers.losesNextMarker = true
        #expect(try commit(log, seq: 2, "second") == .committed)
        time.now += 1000
        brokers.advance()
        #expect(brokers.changelogEnd(0) == 1, "nobody can read it")
        try other.takeOver(partition: 0)
        #expect(other.changelogEnd(of: 0) == 2)
        #expect(try commit(other, seq: 3, "third") == .committed)
        #expect(held == ["first", "second", "third"])
    }

    /// A worker that is given another slot gives up what it has by the one before.
    @Test func anotherSlotBeginsWithNothing() throws {
        let log = try log(slot: 0)
        try log.takeOver(partition: 0)
        #expect(try commit(log, seq: 1, "first") == .committed)
        log.sit(in: 1)
        let batch = EventBatch(eventsMax: 8)
        #expect(try log.next(into: batch, waitMicroseconds: 0) == .revoked(partition: nil))
        #expect(log.changelogEnd(of: 0) == nil)
        #expect(try commit(log, seq: 2, "second") == .lost)
    }
}
