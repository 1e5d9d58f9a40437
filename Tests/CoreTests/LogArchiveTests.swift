import Foundation
import Changes
import Core
import Testing

@Suite struct LogArchiveTests {
    /// An export reads back what the log holds; any damage, and any end that is not the last, is noticed.
    @Test func whatIsDamagedIsRefused() throws {
        let folder = NSTemporaryDirectory() + "/archive-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let log = try EmbeddedLog(path: folder + "/log", partitions: 2, lingerMicroseconds: 0)
        var request = AppendRequest()
        for id in 0..<20 { Array("{\"id\":\"e\(id)\"}".utf8).withUnsafeBytes { request.add($0, partition: id % 2) } }
        _ = try log.append(request)
        let path = folder + "/history.log"
        let (written, size) = try LogArchiveWriter.export(log.stored, pipeline: "sample", to: path) { _, _ in }
        #expect(!FileManager.default.fileExists(atPath: path + ".unfinished"))
        let header = try LogArchiveReader.check(path: path)
        #expect(header == written && header.lineage == log.lineage && header.pipeline == "sample")
        #expect(header.ends == [.init(input: 10, seq: 0), .init(input: 10, seq: 0)])
        let reader = try LogArchiveReader(path: path)
        guard case .events(let events) = try reader.next() else { return #expect(Bool(false)) }
        #expect(events.count == 10 && events.withEvent(3) { String(decoding: $0, as: UTF8.self) } == "{\"id\":\"e6\"}")

        let bytes = Array(try #require(FileManager.default.contents(atPath: path)))
        #expect(bytes.count == Int(size))
        for index in bytes.indices {
            var damaged = bytes
            damaged[index] ^= 1
            try Data(damaged).write(to: URL(filePath: path))
            #expect(throws: LogArchive.Failure.self) { try LogArchiveReader.check(path: path) }
            try Data(bytes[..<index]).write(to: URL(filePath: path))
            #expect(throws: LogArchive.Failure.self) { try LogArchiveReader.check(path: path) }
        }
    }
}
