import Changes
import Foundation
import Storage

/// Up to where a reader's own events lie in the input: `LINEAGE:PARTITION=OFFSET,…`, as ingest returned it.
package struct ReadToken: Sendable, Equatable {
    package let lineage: Lineage
    package let offsets: [Int: UInt64]

    package init(lineage: Lineage, offsets: [Int: UInt64]) {
        self.lineage = lineage
        self.offsets = offsets
    }

    package init?(_ text: String) {
        let parts = text.split(separator: ":", maxSplits: 1)
        guard parts.count == 2, let lineage = Lineage(String(parts[0])) else { return nil }
        var offsets: [Int: UInt64] = [:]
        for pair in parts[1].split(separator: ",") {
            let sides = pair.split(separator: "=")
            guard sides.count == 2, let partition = Int(sides[0]), partition >= 0, let offset = UInt64(sides[1]) else {
                return nil
            }
            offsets[partition] = offset
        }
        self.init(lineage: lineage, offsets: offsets)
    }

    func isReached(by positions: [AppliedPosition]) -> Bool {
        offsets.allSatisfy { partition, offset in
            partition < positions.count && positions[partition].lineage == lineage
                && positions[partition].endOffset >= offset
        }
    }
}

/// Readers that wait for their own events. Bounded: one that finds no room is not made to wait.
///
/// `@unchecked Sendable`: guarded by the lock.
final class TokenWaiters: @unchecked Sendable {
    private let lock = NSLock()
    private var waiting: [(token: ReadToken, ready: @Sendable () -> Void)] = []

    func add(_ token: ReadToken, _ ready: @escaping @Sendable () -> Void) {
        lock.withLock { if waiting.count < 10_000 { waiting.append((token, ready)) } }
    }

    func check(_ positions: [AppliedPosition]) {
        let ready = lock.withLock {
            guard !waiting.isEmpty else { return [@Sendable () -> Void]() }
            let reached = waiting.filter { $0.token.isReached(by: positions) }.map(\.ready)
            if !reached.isEmpty { waiting.removeAll { $0.token.isReached(by: positions) } }
            return reached
        }
        for run in ready { run() }
    }
}
