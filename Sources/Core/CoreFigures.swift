internal import Synchronization
import Changes
import Features
import Service
import Storage

/// What the core tells about itself: counts, positions and the time that each stage takes. Thread-safe.
package final class CoreFigures: Sendable {
    package struct Counts: Sendable {
        package var scored: UInt64 = 0
        package var duplicates: UInt64 = 0
        package var deadLetters: UInt64 = 0
        package var flagged: UInt64 = 0
        package var late: UInt64 = 0
        package var fromFuture: UInt64 = 0
        package var batches: UInt64 = 0
        package var entities = 0
        package var stateBytes = 0
        package var positions: [Int: AppliedPosition] = [:]
    }

    private let counts = Mutex(Counts())
    /// From the log's taking an event to the loop's: microseconds.
    package let queued = LatencySketch()
    /// Decoding, features, score and staging of a batch.
    package let scoring = LatencySketch()
    package let commit = LatencySketch()
    /// From the log's taking an event to its committed score.
    package let total = LatencySketch()

    package init() {}

    package var current: Counts { counts.withLock { $0 } }

    func record(_ flight: Flight, state: FeatureState) {
        let batch = flight.batch
        let tally = flight.tally
        counts.withLock {
            $0.scored += UInt64(tally.scored)
            $0.duplicates += UInt64(tally.duplicates)
            $0.deadLetters += UInt64(tally.deadLetters)
            $0.flagged += UInt64(flight.flagged)
            $0.late += UInt64(tally.late)
            $0.fromFuture += UInt64(tally.fromFuture)
            $0.batches += 1
            $0.entities = state.entityCount
            $0.stateBytes = state.memoryBytes
            if let partition = batch.count > 0 ? batch.partition : nil { $0.positions[partition] = flight.position }
        }
        scoring.record(flight.staged - flight.started, weight: UInt64(batch.count))
        commit.record(flight.committed - flight.staged, weight: UInt64(batch.count))
        // Events of one append share their time: one record for each run of them.
        var index = 0
        while index < batch.count {
            let time = batch.appendTime(index)
            var end = index + 1
            while end < batch.count, batch.appendTime(end) == time { end += 1 }
            queued.record(flight.started - time, weight: UInt64(end - index))
            total.record(flight.committed - time, weight: UInt64(end - index))
            index = end
        }
    }
}
