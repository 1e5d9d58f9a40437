import Changes
import Foundation
import Storage
import Testing

/// What kill −9 leaves of a view, which has no log of its own: a prefix of its batches, with the frontier of that prefix.
@Suite struct CrashTests {
    static let rowsPerBatch = 10

    static func key(_ row: UInt64) -> [UInt8] {
        [View.Prefix.event] + withUnsafeBytes(of: row.bigEndian) { Array($0) }
    }

    static func open(_ path: String) throws -> View {
        var configuration = Store.Configuration()
        configuration.writeBufferBytes = 64 << 10
        return try View(path: path, configuration)
    }

    /// Goes on where the view stands, batch after batch, until it is killed; never returns otherwise.
    static func writeUntilKilled(_ path: String, afterMicroseconds delay: UInt32) throws {
        let view = try open(path)
        let batch = StoreBatch()
        let killer = Thread {
            usleep(delay)
            kill(getpid(), SIGKILL)
        }
        killer.start()
        var seq = try view.position(.events, partition: 0)?.seq ?? 0
        while true {
            seq += 1
            batch.clear()
            for row in 0..<rowsPerBatch {
                batch.put(
                    key(seq * UInt64(rowsPerBatch) + UInt64(row)),
                    [UInt8](repeating: UInt8(truncatingIfNeeded: seq), count: 100))
            }
            let position = AppliedPosition(lineage: Lineage(high: 1, low: 2), seq: seq)
            try view.write(batch, .events, partition: 0, position: position)
            if seq % 50 == 0 { try view.store.flush() }
        }
    }

    /// Ten kills of a real process at random moments, each starting from what the one before left.
    @Test func aKillLeavesAConsistentPrefix() async throws {
        let folder = NSTemporaryDirectory() + "/crash-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let path = folder + "/view"
        var reached: [UInt64] = []
        for _ in 0..<10 {
            let delay = UInt32.random(in: 20_000...120_000)
            await #expect(processExitsWith: .signal(SIGKILL)) { [path = path as String, delay = delay as UInt32] in
                try CrashTests.writeUntilKilled(path, afterMicroseconds: delay)
            }
            let view = try Self.open(path)
            let seq = try view.position(.events, partition: 0)?.seq ?? 0
            var rows: UInt64 = 0
            var wrong = 0
            try StoreIterator(view.store).forEach(prefix: [View.Prefix.event]) { rowKey, value in
                let expected = Self.key(UInt64(Self.rowsPerBatch) + rows)
                let batch = 1 + rows / UInt64(Self.rowsPerBatch)
                if !rowKey.elementsEqual(expected) || value.count != 100
                    || value.contains(where: { $0 != UInt8(truncatingIfNeeded: batch) })
                {
                    wrong += 1
                }
                rows += 1
                return true
            }
            #expect(rows == seq * UInt64(Self.rowsPerBatch), "frontier \(seq), rows \(rows)")
            #expect(wrong == 0)
            #expect(seq >= reached.last ?? 0, "what was flushed before the kill before is still there")
            reached.append(seq)
        }
        #expect(Set(reached).count > 3, "the kills found the view at different places: \(reached)")
    }
}
