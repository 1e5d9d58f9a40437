import Replicate
internal import Synchronization

/// What a region, or a sealer, tells about its snapshots. Thread-safe.
package final class SnapshotFigures: Sendable {
    private let state = Mutex(State())

    private struct State {
        var refused: [SnapshotRefusal.Reason: UInt64] = [:]
        var lastRefusal: (name: String, refusal: SnapshotRefusal)?
        var installed: UInt64 = 0
        var published: UInt64 = 0
        var sealedHere: UInt64 = 0
        var bytesFetched: UInt64 = 0
        var rowsSealed: UInt64 = 0
        var bytesSealed: UInt64 = 0
        var bytesMerged: UInt64 = 0
        var bytesTables: UInt64 = 0
        var progress: Progress?
    }

    /// How far a bootstrap is.
    package struct Progress: Equatable, Sendable {
        package var bytesDone: Int
        package var bytesTotal: Int
        /// By the rate so far; `nil` before there is one.
        package var secondsLeft: Double?
    }

    package init() {}

    package func refused(_ refusal: SnapshotRefusal, name: String) {
        state.withLock {
            $0.refused[refusal.reason, default: 0] += 1
            $0.lastRefusal = (name, refusal)
        }
    }

    func didInstall() {
        state.withLock {
            $0.installed += 1
            $0.lastRefusal = nil
        }
    }

    func didPublish(rows: Int, sealed: Int, merged: Int, tables: Int) {
        state.withLock {
            $0.published += 1
            $0.rowsSealed += UInt64(rows)
            $0.bytesSealed += UInt64(sealed)
            $0.bytesMerged += UInt64(merged)
            $0.bytesTables += UInt64(tables)
        }
    }

    func didSealHere() { state.withLock { $0.sealedHere += 1 } }
    func didFetch(bytes: Int) { state.withLock { $0.bytesFetched += UInt64(bytes) } }

    package internal(set) var progress: Progress? {
        get { state.withLock { $0.progress } }
        set { state.withLock { $0.progress = newValue } }
    }

    package var installed: UInt64 { state.withLock { $0.installed } }
    package var refusals: [SnapshotRefusal.Reason: UInt64] { state.withLock { $0.refused } }
    package var bytesFetched: UInt64 { state.withLock { $0.bytesFetched } }
    package var sealedHere: UInt64 { state.withLock { $0.sealedHere } }
    /// The refusal that has not been healed by a good snapshot since.
    package var standingRefusal: (name: String, refusal: SnapshotRefusal)? { state.withLock { $0.lastRefusal } }

    /// What a sealer has made.
    package var sealing: (published: UInt64, rows: UInt64, sealed: UInt64, merged: UInt64, tables: UInt64) {
        state.withLock { ($0.published, $0.rowsSealed, $0.bytesSealed, $0.bytesMerged, $0.bytesTables) }
    }
}
