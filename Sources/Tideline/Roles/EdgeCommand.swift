import CProcess
import Edge
import Features
import Foundation
import HTTP
import NATS
import Replicate
import Scoring
import Service

/// `tideline edge`: a region's replica and its query endpoints.
enum EdgeCommand {
    static let command = Command(
        name: "edge", summary: "Follow the log into a region, and answer queries there.",
        discussion: """
            Keeps a whole copy of the log's state on its own disk, and answers from it in every state of the rest of the
            world; each answer says how stale it may be.
            """,
        options: [
            CommandOption("--region", "NAME", default: "eu", help: "The region's name."),
            CommandOption(
                "--dir", "DIR", default: ".tideline/world", help: "Folder; the replica lies in DIR/edge-NAME."),
            CommandOption(
                "--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"), help: "The pipeline file."),
            CommandOption("--nats", "URL", default: "nats://127.0.0.1:8422", help: "The bus."),
            CommandOption("--port", "PORT", default: "8411", help: "HTTP port on 127.0.0.1; 0 takes a free one."),
            CommandOption(
                "--peers", "LIST", help: "Other regions, as us=URL,ap=URL, named when this one is too stale."),
            CommandOption(
                "--trust", "FILE",
                help: "Public key of the sealer whose snapshots are taken; may be repeated. [DIR/keys/snapshot.pub]"),
            CommandOption("--own-rows", "N", default: "100000", help: "Seal a tail of so many vectors here,"),
            CommandOption("--own-after", "SECONDS", default: "120", help: "when no snapshot has come for so long."),
        ],
        examples: ["tideline edge --region eu --nats nats://127.0.0.1:8422 --port 8411"],
        run: { try run($0) })

    static func run(_ arguments: ParsedArguments) throws -> Int32 {
        RoleShell.prepare()
        let name = arguments.string("--region") ?? "eu"
        let log = Log(role: "edge-\(name)")
        let dir = arguments.string("--dir") ?? ".tideline/world"
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        let model = try ModelFile.load(pipeline)
        var configuration = Region.Configuration(name: name, path: "\(dir)/edge-\(name)")
        for pair in (arguments.string("--peers") ?? "").split(separator: ",") {
            let sides = pair.split(separator: "=", maxSplits: 1).map(String.init)
            guard sides.count == 2 else { throw UsageError("--peers is a list such as us=URL,ap=URL") }
            configuration.others[sides[0]] = sides[1]
        }
        try FileManager.default.createDirectory(atPath: configuration.path, withIntermediateDirectories: true)
        let bus = try JetStreamSubscriber(
            url: arguments.string("--nats") ?? "", pipeline: pipeline.name, region: name)
        configuration.snapshots = try place(arguments, dir: dir, pipeline, name, configuration.path, log)
        let region = try Region(configuration, pipeline: pipeline, model: model, bus: bus, log: log)
        let stopping = StopSignal()
        let failed = StopSignal()
        let applier = RoleThread(name: "applier") {
            do {
                while !stopping.isStopped { try region.step() }
                region.close()
            } catch {
                log.error("the applier has ended", ["error": "\(error)"])
                failed.stop()
            }
        }
        let follower = try follow(region, arguments, stopping, log)
        let server = makeServer(region, port: UInt16(try arguments.int("--port", in: 0...65535) ?? 8411))
        let bound = try server.start()
        log.info("ready", ["url": "http://127.0.0.1:\(bound)"])
        let asked = RoleShell.waitForEnd(failed)
        stopping.stop()
        bus.close()
        server.stop(deadline: .seconds(3))
        let ended = applier.join(seconds: 20)
        follower?.join(seconds: 2)
        log.info("stopped")
        return asked && ended && !failed.isStopped ? 0 : 1
    }

    /// Where snapshots come from; `nil` where no key says which may be trusted.
    private static func place(
        _ arguments: ParsedArguments, dir: String, _ pipeline: Pipeline, _ name: String, _ path: String, _ log: Log
    ) throws -> SnapshotPlace? {
        var trusted = arguments.strings("--trust")
        let standard = "\(dir)/keys/\(KeysCommand.publicName)"
        if trusted.isEmpty {
            guard FileManager.default.fileExists(atPath: standard) else {
                log.info("no snapshots: there is no public key", ["looked": standard, "option": "--trust"])
                return nil
            }
            trusted = [standard]
        }
        let keys = try TrustedKeys(paths: trusted)
        return SnapshotPlace(
            store: try SnapshotStore(path: "\(path)/snapshots", trusting: keys, holding: .segments),
            source: try NATSSnapshotSource(
                url: arguments.string("--nats") ?? "", pipeline: pipeline.name, region: name),
            keys: keys)
    }

    private static func follow(
        _ region: Region, _ arguments: ParsedArguments, _ stopping: StopSignal, _ log: Log
    ) throws -> RoleThread? {
        var configuration = SnapshotFollower.Configuration()
        configuration.ownRows = try arguments.int("--own-rows", in: 1000...100_000_000) ?? configuration.ownRows
        if let seconds = try arguments.double("--own-after") {
            configuration.ownAfterMicroseconds = Int64(max(0, min(seconds, 86_400)) * 1_000_000)
        }
        let follower = SnapshotFollower(region, configuration: configuration, stopping: stopping, log: log)
        guard let box = follower.map(FollowerBox.init) else { return nil }
        return RoleThread(name: "snapshots", stackBytes: 8 << 20) {
            tl_lower_priority()
            while !stopping.isStopped { if !box.follower.step() { stopping.wait(seconds: 0.2) } }
        }
    }

    private static func makeServer(_ region: Region, port: UInt16) -> HTTPServer {
        var router = Router()
        let routes = EdgeRoutes(region)
        routes.install(in: &router, page: EdgePage.html)
        let metrics = Metrics()
        router.get("/metrics") { _ in
            .text(String(decoding: metrics.render(), as: UTF8.self) + routes.metricsText(), contentType: .prometheus)
        }
        router.cors = CORS(origins: nil, exposedHeaders: EdgePage.exposedHeaders)
        var configuration = HTTPServer.Configuration()
        configuration.port = port
        return HTTPServer(configuration: configuration, router: router, metrics: metrics)
    }
}

/// Hands a follower over to its thread.
///
/// `@unchecked Sendable`: from then on that thread alone touches it.
private final class FollowerBox: @unchecked Sendable {
    let follower: SnapshotFollower
    init(_ follower: SnapshotFollower) { self.follower = follower }
}
