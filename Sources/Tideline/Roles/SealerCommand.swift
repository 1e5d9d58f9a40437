import CProcess
import Edge
import Features
import Foundation
import HTTP
import NATS
import Replicate
import Scoring
import Service

/// `tideline sealer`: makes the log's snapshots, signs them, and serves them to the regions.
enum SealerCommand {
    static let command = Command(
        name: "sealer", summary: "Seal what the log holds into signed snapshots, and serve them to the regions.",
        discussion: """
            Follows the log like a region. Regions search a snapshot's segments instead of scanning; a new region begins
            with its tables. One sealer a log; where it is gone regions seal their own tails.
            """,
        options: [
            CommandOption(
                "--dir", "DIR", default: ".tideline/world", help: "Folder; replica and snapshots lie in DIR/sealer."),
            CommandOption(
                "--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"), help: "The pipeline file."),
            CommandOption("--nats", "URL", default: "nats://127.0.0.1:8422", help: "The bus."),
            CommandOption(
                "--key", "FILE", help: "Key that signs, as `tideline keys` makes it. [DIR/keys/snapshot.key]"),
            CommandOption("--rows", "N", default: "50000", help: "Seal as soon as so many vectors are not sealed,"),
            CommandOption("--rows-min", "N", default: "2000", help: "or at least so many"),
            CommandOption("--interval", "SECONDS", default: "60", help: "when the last snapshot is so old."),
            CommandOption("--fan-out", "N", default: "8", help: "Segments of like size that become one."),
            CommandOption("--keep", "N", default: "4", help: "Snapshots that stay on the disk."),
            CommandOption("--threads", "N", default: "1", help: "Threads that build segments, at low priority."),
            CommandOption("--port", "PORT", default: "8405", help: "HTTP port on 127.0.0.1; 0 takes a free one."),
        ],
        examples: ["tideline keys --out .tideline/keys", "tideline sealer --key .tideline/keys/snapshot.key"],
        run: { try run($0) })

    static func run(_ arguments: ParsedArguments) throws -> Int32 {
        RoleShell.prepare()
        let log = Log(role: "sealer")
        let dir = arguments.string("--dir") ?? ".tideline/world"
        let url = arguments.string("--nats") ?? ""
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        let keyFile = arguments.string("--key") ?? "\(dir)/keys/\(KeysCommand.privateName)"
        guard FileManager.default.fileExists(atPath: keyFile) else {
            throw UsageError("no key at \(keyFile): make one by `tideline keys --out DIR`, and name it by --key")
        }
        let key = try SigningKey(path: keyFile)
        try FileManager.default.createDirectory(atPath: "\(dir)/sealer", withIntermediateDirectories: true)
        let store = try SnapshotStore(path: "\(dir)/sealer/snapshots", trusting: key.trusted)
        var configuration = Region.Configuration(name: "sealer", path: "\(dir)/sealer")
        configuration.isSealer = true
        configuration.snapshots = SnapshotPlace(store: store, source: nil, keys: key.trusted)
        let bus = try JetStreamSubscriber(url: url, pipeline: pipeline.name, region: "sealer")
        let region = try Region(
            configuration, pipeline: pipeline, model: ModelFile.load(pipeline), bus: bus, log: log)
        let server = try NATSSnapshotServer(url: url, pipeline: pipeline.name, store: store, log: log)
        let sealer = try Sealer(
            region, store: store, key: key, configuration: configured(arguments), log: log
        ) { _ in server.announce() }
        let threads = SealerThreads(region, sealer, server, log)
        let http = makeServer(region, port: UInt16(try arguments.int("--port", in: 0...65535) ?? 8405))
        let bound = try http.start()
        log.info("ready", ["url": "http://127.0.0.1:\(bound)", "key": key.id])
        let asked = RoleShell.waitForEnd(threads.failed)
        http.stop(deadline: .seconds(1))
        bus.close()
        let ended = threads.stop()
        log.info("stopped")
        return asked && ended ? 0 : 1
    }

    private static func configured(_ arguments: ParsedArguments) throws -> Sealer.Configuration {
        var configuration = Sealer.Configuration()
        configuration.rows = try arguments.int("--rows", in: 100...100_000_000) ?? configuration.rows
        configuration.rowsMin = try arguments.int("--rows-min", in: 1...100_000_000) ?? configuration.rowsMin
        if let seconds = try arguments.double("--interval") {
            guard seconds >= 0.1, seconds <= 86_400 else { throw UsageError("--interval is from .1 to 86400 seconds") }
            configuration.intervalMicroseconds = Int64(seconds * 1_000_000)
        }
        configuration.fanOut = try arguments.int("--fan-out", in: 2...64) ?? configuration.fanOut
        configuration.keep = try arguments.int("--keep", in: 1...100) ?? configuration.keep
        configuration.threads = try arguments.int("--threads", in: 1...64) ?? configuration.threads
        return configuration
    }

    private static func makeServer(_ region: Region, port: UInt16) -> HTTPServer {
        var router = Router()
        let metrics = Metrics()
        router.get("/healthz") { _ in .text("ok\n") }
        router.get("/metrics") { _ in
            .text(
                String(decoding: metrics.render(), as: UTF8.self)
                    + SnapshotMetrics(region.snapshots).text(role: "sealer"), contentType: .prometheus)
        }
        var configuration = HTTPServer.Configuration()
        configuration.port = port
        return HTTPServer(configuration: configuration, router: router, metrics: metrics)
    }
}

/// The sealer's threads: one applies, one seals, one serves files.
///
/// `@unchecked Sendable`: region and sealer are each touched by their own thread until that has ended.
private final class SealerThreads: @unchecked Sendable {
    let failed = StopSignal()
    private let stopping = StopSignal()
    private var threads: [RoleThread] = []

    init(_ region: Region, _ sealer: Sealer, _ server: NATSSnapshotServer, _ log: Log) {
        let (failed, stopping) = (failed, stopping)
        let box = SealerBox(sealer)
        threads.append(
            RoleThread(name: "applier") {
                do {
                    while !stopping.isStopped { try region.step() }
                    region.close()
                } catch {
                    log.error("the applier has ended", ["error": "\(error)"])
                    failed.stop()
                }
            })
        threads.append(
            RoleThread(name: "sealer", stackBytes: 8 << 20) {
                tl_lower_priority()
                while !stopping.isStopped {
                    do {
                        if try box.sealer.step() { continue }
                        stopping.wait(seconds: 0.2)
                    } catch {
                        // The replica has everything: what failed is tried again.
                        log.error("a snapshot could not be made", ["error": "\(error)"])
                        stopping.wait(seconds: 5)
                    }
                }
            })
        threads.append(
            RoleThread(name: "snapshots") {
                while !stopping.isStopped { server.step(waitMicroseconds: 200_000) }
                server.close()
            })
    }

    /// Returns whether all ended in time; a segment that is being built is given up with the process.
    func stop() -> Bool {
        stopping.stop()
        let ended = threads[0].join(seconds: 20)
        threads[2].join(seconds: 2)
        threads[1].join(seconds: 1)
        return ended && !failed.isStopped
    }
}

/// Hands a sealer over to its thread.
///
/// `@unchecked Sendable`: from then on that thread alone touches it.
private final class SealerBox: @unchecked Sendable {
    let sealer: Sealer
    init(_ sealer: Sealer) { self.sealer = sealer }
}
