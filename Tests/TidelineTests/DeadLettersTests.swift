import Changes
import Core
import Features
import Foundation
import HTTP
import Storage
import Testing

@testable import Tideline

/// Events that a pipeline file could not take become dead letters; with a better file they go in again, once.
@Suite(.timeLimit(.minutes(5))) struct DeadLettersTests {
    let folder = NSTemporaryDirectory() + "/letters-\(UUID().uuidString)"

    private func pipeline(required: Bool) throws -> String {
        let path = "\(folder)/\(required ? "strict" : "mended").yaml"
        try """
        pipeline: letters
        event: { id: id, time: { path: t, unit: s } }
        entities: { customer: { path: customer } }
        fields: { amount: { type: number, required: \(required) } }
        features: [ { value: amount } ]
        """.write(toFile: path, atomically: true, encoding: .utf8)
        return path
    }

    @Test func theyGoInAgainOnce() throws {
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let (strict, mended) = (try pipeline(required: true), try pipeline(required: false))
        let log = try EmbeddedLog(path: folder + "/log", partitions: 2, lingerMicroseconds: 0)
        func loop(_ path: String, _ view: View) throws -> ScoringLoop {
            try ScoringLoop(
                log: log, view: view, pipeline: Pipeline(path: path), model: nil, figures: CoreFigures(), eventsMax: 10)
        }
        var request = AppendRequest()
        let texts =
            (0..<6).map { "{\"id\":\"a\($0)\",\n \"t\":1700000000,\"customer\":\"c\"}" } + ["{\"id\":7}", "no JSON"]
        for (index, text) in texts.enumerated() {
            Array(text.utf8).withUnsafeBytes { request.add($0, partition: index % 2) }
        }
        _ = try log.append(request)
        do {
            let loop = try loop(strict, View(path: folder + "/core"))
            while try loop.step(waitMicroseconds: 1000) != .idle {}
            try loop.close()
        }
        func run(_ words: String..., options: [String] = []) -> Int32 {
            tidelineTool.main(["dead-letters"] + words + ["--dir", folder] + options)
        }
        #expect(run("list", "--pipeline", strict) == 0)
        #expect(run("show", "1", "0", "--pipeline", strict) == 0)
        #expect(run("show", "1", "77", "--pipeline", strict) != 0)
        #expect(run("replay", "--dry-run", "--pipeline", mended) == 1)

        let view = try View(path: folder + "/core")
        let after = try loop(mended, view)
        let figures = CoreFigures()
        var router = Router()
        IngestRoutes(log: log, view: view, pipeline: try Pipeline(path: mended), figures: figures).install(in: &router)
        let server = HTTPServer(router: router)
        let url = "http://127.0.0.1:\(try server.start())"
        defer { server.stop(deadline: .seconds(1)) }
        // Two of the eight are still no events: they stay, and the exit code says so.
        for _ in 0..<2 {
            #expect(run("replay", "--to", url, "--rate", "1000", "--pipeline", mended) == 1)
            while try after.step(waitMicroseconds: 1000) != .idle {}
        }
        var scored: [String] = []
        for partition in 0..<2 {
            try log.reader.changelog(of: partition, after: 0) { _, encoded in
                try ChangeBatch(decoding: encoded).forEachChange { change in
                    if change.kind == .event {
                        scored.append(String(decoding: change.tenantAndRest.rest, as: UTF8.self))
                    }
                }
                return true
            }
        }
        #expect(scored.sorted() == (0..<6).map { "a\($0)" })
        #expect(run("replay", "--to", url, "--reason", "amount", "--rate", "1000", "--pipeline", mended) == 0)
    }
}
