import Foundation
import Core
import Edge
import Features
import Replicate

/// Runs histories, one after another, until one shows a violation, or enough have been run.
package struct Simulation {
    package struct Outcome: Sendable {
        package let seed: UInt64
        /// What must never happen, and did; `nil` where all held.
        package let violation: String?
        package let events: Int
        package let steps: Int
        package let scored: Int
        package let duplicates: Int
        package let deadLetters: Int
        /// A hash of every step in its order: equal seeds give equal hashes.
        package let trace: UInt64
        package let simulatedSeconds: Double
    }

    private let pipeline: Pipeline
    private let events: Int
    private let variant: ProtocolVariant
    private let snapshotVariant: SnapshotVariant
    private let key: SigningKey
    private let root: String

    /// `events`: how many reach the brokers in a history. `variant`, `snapshotVariant`: the rule to break.
    package init(
        events: Int = 1000, variant: ProtocolVariant = .sound, snapshotVariant: SnapshotVariant = .sound
    ) throws {
        self.events = events
        self.variant = variant
        self.snapshotVariant = snapshotVariant
        key = try SigningKey()
        pipeline = try Pipeline(text: EventSource.pipeline, file: "simulated.yaml")
        // In memory where the machine has a file system for that: the stores are real.
        let memory = "/dev/shm"
        let place = FileManager.default.isWritableFile(atPath: memory) ? memory : NSTemporaryDirectory()
        root = "\(place)/tideline-simulation-\(UUID().uuidString)"
    }

    /// Runs the history of a seed. `traces`: prints each step.
    package func run(seed: UInt64, traces: Bool = false) throws -> Outcome {
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: root) }
        var configuration = History.Configuration()
        configuration.events = events
        configuration.variant = variant
        configuration.snapshotVariant = snapshotVariant
        configuration.traces = traces
        let outcome = try History(seed: seed, folder: root, pipeline: pipeline, key: key, configuration).run()
        return Outcome(
            seed: outcome.seed, violation: outcome.violation, events: outcome.events, steps: outcome.steps,
            scored: outcome.scored, duplicates: outcome.duplicates, deadLetters: outcome.deadLetters,
            trace: outcome.trace, simulatedSeconds: outcome.simulatedSeconds)
    }
}
