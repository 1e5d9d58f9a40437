import Changes
import Foundation
import Storage
import Testing

@Suite struct StoreTests {
    let folder = NSTemporaryDirectory() + "/store-\(UUID().uuidString)"

    init() throws { try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true) }

    func key(_ index: Int) -> [UInt8] {
        [View.Prefix.event] + withUnsafeBytes(of: UInt32(index).bigEndian) { Array($0) }
    }

    @Test func readsWritesAndWalks() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try Store(path: folder + "/a")
        let batch = StoreBatch()
        for index in 0..<100 { batch.put(key(index), Array("value \(index)".utf8)) }
        batch.put([0x7A], [1])
        try store.write(batch)
        #expect(try store.get(key(7)) { String(decoding: $0, as: UTF8.self) } == "value 7")
        #expect(try store.get(key(200)) { _ in true } == nil)
        var seen = 0
        try StoreIterator(store).forEach(prefix: [View.Prefix.event]) { _, value in
            #expect(String(decoding: value, as: UTF8.self) == "value \(seen)")
            seen += 1
            return seen < 50
        }
        #expect(seen == 50)
        let iterator = StoreIterator(store)
        iterator.seekBack(key(1000))
        #expect(iterator.isValid && iterator.key.elementsEqual(key(99)))
    }

    @Test func aWalkSeesTheStoreAsItWas() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try Store(path: folder + "/a")
        let batch = StoreBatch()
        batch.put(key(1), [1])
        try store.write(batch)
        let iterator = StoreIterator(store)
        batch.clear()
        batch.put(key(2), [2])
        try store.write(batch)
        var count = 0
        try iterator.forEach(prefix: [View.Prefix.event]) { _, _ in
            count += 1
            return true
        }
        #expect(count == 1)
    }

    @Test func aCheckpointIsAWholeStore() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try Store(path: folder + "/a")
        let batch = StoreBatch()
        batch.put(key(1), [9])
        try store.write(batch)
        try store.checkpoint(to: folder + "/copy")
        let copy = try Store(path: folder + "/copy")
        #expect(try copy.get(key(1)) { Array($0) } == [9])
    }

    /// Each part is seen to move with what it counts.
    @Test func saysWhatItHoldsInMemory() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try Store(path: folder + "/a")
        let batch = StoreBatch()
        for index in 0..<2000 { batch.put(key(index), (0..<500).map { _ in .random(in: .min ... .max) }) }
        try store.write(batch)
        let written = store.memory
        #expect(written.memtables > 1_000_000 && written.memtablesRead == 0)
        let iterator = StoreIterator(store)
        try store.flush()
        let flushed = store.memory
        #expect(flushed.memtables < written.memtables && flushed.memtablesRead > 1_000_000)
        for index in 0..<2000 { _ = try store.get(key(index)) { _ in true } }
        let read = store.memory
        #expect(read.cache > 1_000_000 && read.cachePinned > 0)
        #expect(read.parts.map(\.name) == ["memtables", "memtables_read", "files", "cache", "cache_pinned"])
        #expect(read.total == read.parts.map(\.bytes).reduce(0, +))
        iterator.seek(key(0))
        let isValid = iterator.isValid
        #expect(isValid)
    }

    /// Bytes that this thread has read from files, as the kernel counts them.
    static func bytesRead() throws -> Int {
        let text = try String(contentsOfFile: "/proc/thread-self/io", encoding: .utf8)
        let line = try #require(text.split(separator: "\n").first { $0.hasPrefix("rchar: ") })
        return try #require(Int(line.dropFirst(7)))
    }

    /// A new id costs a part of a filter that stays in the cache, however large the file's whole filter is.
    @Test(.enabled(if: (try? bytesRead()) != nil, "the kernel does not count a thread's reads"))
    func anAbsentKeyCostsNoWholeFilter() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        var configuration = Store.Configuration()
        configuration.blockCacheBytes = 1 << 20
        func id(_ number: UInt64) -> [UInt8] {
            let hash = withUnsafeBytes(of: number) { stableHash($0) }
            return withUnsafeBytes(of: hash) { Array($0) }
        }
        let store = try Store(path: folder + "/a", configuration)
        let batch = StoreBatch()
        // The newest files' filters are pinned; when they are merged into one file, its filter is not.
        for part in 0..<5 as Range<UInt64> {
            batch.clear()
            for number in 0..<50_000 as Range<UInt64> { batch.put(id(part * 50_000 + number), []) }
            try store.write(batch)
            try store.flush()
        }
        var files = 5
        for _ in 0..<3000 where files > 2 {
            usleep(10_000)
            files = try FileManager.default.contentsOfDirectory(atPath: store.path).count { $0.hasSuffix(".sst") }
        }
        try #require(files <= 2, "RocksDB merges its files")
        let before = try Self.bytesRead()
        for number in 0..<2000 as Range<UInt64> { #expect(try store.get(id(1_000_000 + number)) { _ in true } == nil) }
        let bytes = try Self.bytesRead() - before
        #expect(bytes < 20_000_000, "\(bytes) bytes for 2,000 absent keys")
    }

    @Test func aSecondWriterIsTold() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try Store(path: folder + "/a")
        #expect(throws: StoreError.self) { _ = try Store(path: folder + "/a") }
        _ = store
    }
}
