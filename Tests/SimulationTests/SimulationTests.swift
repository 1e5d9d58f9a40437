import Core
import Simulation
import Testing

@Suite struct SimulationTests {
    @Test func theSameSeedGivesTheSameTrace() throws {
        let simulation = try Simulation(events: 300)
        let first = try simulation.run(seed: 7)
        let second = try simulation.run(seed: 7)
        #expect(first.trace == second.trace && first.steps == second.steps)
        #expect(try simulation.run(seed: 8).trace != first.trace)
    }
}
