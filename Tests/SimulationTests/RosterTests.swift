import Testing
import Transactions

/// Workers that read one list: what one says all hear, in one order.
private struct Workplace {
    var rosters: [String: Roster] = [:]
    var offset: UInt64 = 0

    init(_ workers: String...) { for worker in workers { rosters[worker] = Roster(worker: worker) } }

    mutating func say(_ notice: Roster.Notice, delay: Int64 = 0) {
        offset += 1
        for worker in rosters.keys { rosters[worker]?.hear(notice, offset: offset, delay: delay) }
    }

    mutating func beat(_ worker: String, delay: Int64 = 0) {
        let seat = rosters[worker]?.seat
        say(.init(worker: worker, kind: .beat, slot: seat?.slot, epoch: seat?.epoch), delay: delay)
    }

    mutating func claim(_ worker: String, _ slot: Int, over epoch: UInt64?) {
        say(.init(worker: worker, kind: .claim, slot: slot, epoch: epoch))
    }

    func seats() -> [String: Int] { rosters.compactMapValues { $0.seat?.slot } }
}

@Suite struct RosterTests {
    @Test func whoComesListensBeforeItTakesAPlace() {
        var place = Workplace("a")
        #expect(place.rosters["a"]?.freeSlot(of: 2) == nil && place.rosters["a"]?.freeSlot(of: nil) == nil)
        for _ in 0..<Roster.patience { place.beat("a") }
        #expect(place.rosters["a"]?.freeSlot(of: 2) == 0 && place.rosters["a"]?.freeSlot(of: nil) == 0)
        place.claim("b", 0, over: nil)
        place.beat("b")
        #expect(place.rosters["a"]?.freeSlot(of: 1) == nil && place.rosters["a"]?.freeSlot(of: nil) == 1)
    }

    /// Two claim what both found free: the first in the list's order has it, for all.
    @Test func theFirstClaimWins() {
        var place = Workplace("a", "b", "c")
        place.claim("b", 0, over: 0)
        place.claim("a", 0, over: 0)
        #expect(place.seats() == ["b": 0])
        for roster in place.rosters.values { #expect(roster.holder(of: 0) == "b") }
        #expect(place.rosters["a"]?.freeSlot(of: 1) == nil)
    }

    @Test func aSilentHolderIsReplacedAndItsOldBeatsCountNoMore() {
        var place = Workplace("a", "b")
        place.claim("a", 0, over: 0)
        for _ in 0..<20 {
            place.beat("a")
            place.beat("b")
        }
        #expect(place.rosters["b"]?.freeSlot(of: 1) == nil && place.rosters["a"]?.standbys == 1)
        for _ in 0..<Roster.patience { place.beat("b") }
        #expect(place.rosters["b"]?.freeSlot(of: 1) == 0)
        let epoch = place.rosters["b"]?.epoch(of: 0) ?? 0
        place.claim("b", 0, over: epoch)
        // The zombie goes on for a moment.
        place.say(.init(worker: "a", kind: .beat, slot: 0, epoch: epoch))
        #expect(place.seats() == ["b": 0])
        #expect(place.rosters["a"]?.holder(of: 0) == "b", "it reads that it was replaced")
    }

    /// While the brokers are away nobody beats; when they are back our own late beats accuse nobody.
    @Test func anOutageAccusesNobody() {
        var place = Workplace("a", "b")
        place.claim("a", 0, over: 0)
        for _ in 0..<10 {
            place.beat("a")
            place.beat("b")
        }
        place.beat("b", delay: 2_000_000)
        for _ in 0..<(Roster.patience * 2) { place.beat("b") }
        #expect(place.rosters["b"]?.freeSlot(of: 1) == nil, "the other has time to come back")
        for _ in 0..<40 { place.beat("b") }
        #expect(place.rosters["b"]?.freeSlot(of: 1) == 0, "but not for ever")
    }

    /// Whoever is always late, as on a machine that has too much to do, takes a slot all the same.
    @Test func whoIsAlwaysLateWaitsLonger() {
        var place = Workplace("a", "b")
        for _ in 0..<49 { place.beat("a", delay: 2_000_000) }
        #expect(place.rosters["a"]?.freeSlot(of: 1) == nil)
        place.beat("a", delay: 2_000_000)
        #expect(place.rosters["a"]?.freeSlot(of: 1) == 0)
        place.claim("b", 0, over: 0)
        for _ in 0..<49 { place.beat("a", delay: 2_000_000) }
        #expect(place.rosters["a"]?.freeSlot(of: 1) == nil)
        place.beat("a", delay: 2_000_000)
        #expect(place.rosters["a"]?.freeSlot(of: 1) == 0)
    }

    /// A beat that is a little late is no outage: it does not count, and takes nothing back.
    @Test func aLateBeatDoesNotCount() {
        var place = Workplace("a", "b")
        place.claim("b", 0, over: 0)
        for _ in 0..<(Roster.patience - 1) { place.beat("a") }
        for _ in 0..<5 { place.beat("a", delay: 600_000) }
        #expect(place.rosters["a"]?.freeSlot(of: 1) == nil)
        place.beat("a")
        #expect(place.rosters["a"]?.freeSlot(of: 1) == 0)
    }

    @Test func aPlannedStopFreesTheSlotAtOnce() {
        var place = Workplace("a", "b")
        place.claim("a", 0, over: 0)
        place.beat("a")
        place.beat("b")
        let epoch = place.rosters["a"]?.epoch(of: 0) ?? 0
        place.say(.init(worker: "a", kind: .leave, slot: 0, epoch: epoch))
        #expect(place.rosters["b"]?.freeSlot(of: 1) == 0)
        place.say(.init(worker: "a", kind: .beat, slot: 0, epoch: epoch))
        #expect(place.rosters["b"]?.freeSlot(of: 1) == 0, "a last beat that comes after the farewell changes nothing")
    }

    /// One that came late knows the holder by its beats, and who was told to take a slot takes it from whoever has it.
    @Test func epochsAreLearntFromBeatsAndAClaimWithoutOneTakesAll() {
        var place = Workplace("a")
        place.claim("a", 0, over: 0)
        place.rosters["late"] = Roster(worker: "late")
        #expect(place.rosters["late"]?.epoch(of: 0) == 0)
        place.beat("a")
        #expect(place.rosters["late"]?.epoch(of: 0) == place.rosters["a"]?.epoch(of: 0))
        place.claim("late", 0, over: nil)
        #expect(place.seats() == ["late": 0])
    }
}
