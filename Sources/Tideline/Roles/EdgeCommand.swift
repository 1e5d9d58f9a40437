import Edge
import Features
import Foundation
import HTTP
import NATS
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
        let server = makeServer(region, port: UInt16(try arguments.int("--port", in: 0...65535) ?? 8411))
        let bound = try server.start()
        log.info("ready", ["url": "http://127.0.0.1:\(bound)"])
        let asked = RoleShell.waitForEnd(failed)
        stopping.stop()
        bus.close()
        server.stop(deadline: .seconds(3))
        let ended = applier.join(seconds: 20)
        log.info("stopped")
        return asked && ended && !failed.isStopped ? 0 : 1
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
