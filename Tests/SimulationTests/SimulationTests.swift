import Core
import Edge
import Service
import Simulation
import Synchronization
import Testing

@Suite struct SimulationTests {
    @Test func theSameSeedGivesTheSameTrace() throws {
        let simulation = try Simulation(events: 300)
        let first = try simulation.run(seed: 7)
        let second = try Simulation(events: 300).run(seed: 7)
        #expect(first.trace == second.trace && first.steps == second.steps)
        #expect(try simulation.run(seed: 8).trace != first.trace)
    }

    /// Seeds that found something in the product, beside some that never did.
    @Test(arguments: [
        1003, 10_100, 1_022_513, 2_002_008, 2, 4, 8, 12, 17, 21, 23, 41, 133, 135, 1180, 5030, 10_049, 20_006, 30_065,
        1, 3, 5, 6, 7,
    ])
    func histories(_ seed: UInt64) throws {
        let outcome = try Simulation(events: 1000).run(seed: seed)
        #expect(outcome.violation == nil, "tideline simulate --seed \(seed) --histories 1 --trace")
        #expect(outcome.events == 1000)
        #expect(outcome.scored + outcome.duplicates + outcome.deadLetters == 1000)
    }

    /// Each broken rule of the protocol is noticed, by a history whose seed is known, and which holds with the rule kept.
    @Test(
        arguments: [
            (ProtocolVariant.appliesBeforeCommit, 1), (.positionFromGroup, 1), (.endBeforeInit, 1),
            (.initInAnyOrder, 5025), (.secondIdFirst, 195), (.beginsEarly, 1), (.duplicateNotDropped, 1),
            (.uncertainIsAborted, 1),
        ] as [(ProtocolVariant, UInt64)])
    func aBrokenRuleIsNoticed(_ variant: ProtocolVariant, _ seed: UInt64) throws {
        let broken = try Simulation(events: 1000, variant: variant).run(seed: seed)
        #expect(broken.violation != nil, "\(variant.rawValue) with seed \(seed)")
        #expect(try Simulation(events: 1000).run(seed: seed).violation == nil)
    }

    @Test(
        arguments: [
            (.installsEarly, 3), (.forgetsDeleted, 3), (.sealedToFrontier, 17),
        ] as [(SnapshotVariant, UInt64)])
    func aBrokenRuleOfSnapshotsIsNoticed(_ variant: SnapshotVariant, _ seed: UInt64) throws {
        let broken = try Simulation(events: 1000, snapshotVariant: variant).run(seed: seed)
        #expect(broken.violation != nil, "\(variant.rawValue) with seed \(seed)")
        #expect(try Simulation(events: 1000).run(seed: seed).violation == nil)
    }

    @Test func everyBrokenRuleIsTried() {
        #expect(ProtocolVariant.planted.count == 8 && SnapshotVariant.planted.count == 3)
    }
}

@Suite struct SteadyClockTests {
    private final class Shown: WallClock {
        private let times = Mutex<(shown: Int64, unset: Int64)>((1_000_000_000, 77))
        var now: Int64 { times.withLock { $0.shown } }
        var unset: Int64 { times.withLock { $0.unset } }

        func pass(_ microseconds: Int64) {
            times.withLock {
                $0.shown += microseconds
                $0.unset += microseconds
            }
        }

        func set(_ microseconds: Int64) { times.withLock { $0.shown += microseconds } }
    }

    @Test func aClockThatIsSetBackGoesOnFromWhereItWas() {
        let shown = Shown()
        let clock = SteadyClock(shown)
        shown.pass(5000)
        #expect(clock.now == shown.now)
        let before = clock.now
        shown.set(-160_000)
        #expect(clock.now == before)
        // A sixteenth slower, until both agree.
        shown.pass(1600)
        #expect(clock.now == before + 1500)
        shown.pass(2_600_000)
        #expect(clock.now == shown.now)
        shown.pass(1_000_000)
        #expect(clock.now == shown.now)
    }

    /// Time that passed before it was set back, and was not looked at, has passed. (Simulation: seed 5002053.)
    @Test func timeThatNobodyLookedAtHasPassed() {
        let shown = Shown()
        let clock = SteadyClock(shown)
        let before = clock.now
        shown.pass(3_200_000)
        shown.set(-2_000_000_000)
        #expect(clock.now == before + 3_000_000)
        // And a leap forward passes.
        shown.set(5_000_000_000)
        #expect(clock.now == shown.now)
    }
}
