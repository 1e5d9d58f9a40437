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

    @Test func aSecondWriterIsTold() throws {
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let store = try Store(path: folder + "/a")
        #expect(throws: StoreError.self) { _ = try Store(path: folder + "/a") }
        _ = store
    }
}
