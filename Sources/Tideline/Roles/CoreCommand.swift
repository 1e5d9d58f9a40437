import Changes
import Core
import Features
import Foundation
import HTTP
import Kafka
import NATS
import Replicate
import Scoring
import Service
import Storage

/// `tideline core`: the log, the scoring loop, ingest, and a relay in the same process.
enum CoreCommand {
    static let command = Command(
        name: "core", summary: "Score every event exactly once, and commit it to the log.",
        discussion: """
            Takes events over HTTP, assembles features, runs the model and commits scores and changes as one step. A
            relay in the same process publishes what is committed; without --nats nothing is published.
            """,
        options: [
            CommandOption("--dir", "DIR", default: ".tideline/world", help: "Folder of the log and the core's view."),
            CommandOption(
                "--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"), help: "The pipeline file."),
            CommandOption("--partitions", "N", help: "Partitions of a new log (default 4)."),
            LogPlace.kafkaOption,
            CommandOption(
                "--slot", "N",
                help: "This core's place among the cores of a Kafka log, whoever has it (default: a free one)."),
            CommandOption(
                "--cores", "N",
                help:
                    "How many cores of a Kafka log score at once; one that comes beyond them stands by, follows the log "
                    + "and takes the place of the first that falls silent (default: each scores)."),
            CommandOption(
                "--from", "PLACE", default: "earliest",
                help: "Where a new pipeline begins in a Kafka topic that holds events: earliest or latest."),
            CommandOption(
                "--accept-gap", help: "Go on where Kafka's retention has deleted events that were not scored."),
            CommandOption("--port", "PORT", default: "8400", help: "HTTP port on 127.0.0.1; 0 takes a free one."),
            CommandOption("--nats", "URL", help: "The bus, such as nats://127.0.0.1:8422."),
            CommandOption("--batch", "N", default: "2000", help: "Events of one transaction at most."),
        ],
        examples: ["tideline core --dir /var/lib/tideline --nats nats://127.0.0.1:8422"],
        run: { try run($0) })

    static func run(_ arguments: ParsedArguments) throws -> Int32 {
        RoleShell.prepare()
        let log = Log(role: "core")
        let dir = arguments.string("--dir") ?? ".tideline/world"
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        let model = try ModelFile.load(pipeline)
        let port = UInt16(try arguments.int("--port", in: 0...65535) ?? 8400)
        try FileManager.default.createDirectory(atPath: dir, withIntermediateDirectories: true)
        let eventLog = try openLog(arguments, pipeline, dir: dir, log: log)
        let figures = CoreFigures()
        let view = try View(path: "\(dir)/core")
        let loop = try ScoringLoop(
            log: eventLog, view: view, pipeline: pipeline, model: model, figures: figures,
            eventsMax: try arguments.int("--batch", in: 1...2000) ?? 2000, commitsBeside: true)
        let core = CoreRole(log: log, eventLog: eventLog, loop: loop, figures: figures)
        if let nats = arguments.string("--nats") { try core.startRelay(url: nats, pipeline: pipeline.name) }
        core.startLoop()
        let server = makeServer(
            port: port, eventLog: eventLog, view: view, pipeline: pipeline, figures: figures,
            relayMetrics: core.relayMetrics)
        let bound = try server.start()
        log.info(
            "ready",
            ["url": "http://127.0.0.1:\(bound)", "lineage": eventLog.lineage, "partitions": eventLog.partitions])
        let asked = RoleShell.waitForEnd(core.failed)
        server.stop(deadline: .seconds(3))
        let clean = core.stop()
        return asked && clean ? 0 : 1
    }

    private static func openLog(
        _ arguments: ParsedArguments, _ pipeline: Pipeline, dir: String, log: Log
    ) throws -> any IngestLog {
        let partitions = try arguments.int("--partitions", in: 1...1024)
        guard let configuration = try LogPlace.kafka(arguments, pipeline) else {
            return try EmbeddedLog(
                path: "\(dir)/log", partitions: partitions,
                lingerMicroseconds: pipeline.limits.latencyBudgetMicroseconds / 4)
        }
        let topics = try KafkaTopics(configuration, log: log)
        for made in try topics.create(partitions: partitions ?? 4) {
            log.info("topic made", ["topic": made.name, "partitions": made.partitions])
        }
        let from = arguments.string("--from") ?? ""
        guard let begin = KafkaLog.Beginning(rawValue: from) else {
            throw UsageError("--from is earliest or latest, not \(from)")
        }
        let slot = try arguments.int("--slot", in: 0...9999)
        let cores = try arguments.int("--cores", in: 1...1000)
        guard slot == nil || cores == nil else { throw UsageError("--slot or --cores, not both") }
        return try KafkaLog(
            configuration, place: slot.map { .slot($0) } ?? .free(of: cores), begin: begin,
            acceptsGap: arguments.flag("--accept-gap"), log: log)
    }

    private static func makeServer(
        port: UInt16, eventLog: any IngestLog, view: View, pipeline: Pipeline, figures: CoreFigures,
        relayMetrics: @escaping @Sendable () -> String
    ) -> HTTPServer {
        var router = Router()
        let routes = IngestRoutes(log: eventLog, view: view, pipeline: pipeline, figures: figures)
        routes.install(in: &router)
        let metrics = Metrics()
        router.get("/metrics") { _ in
            .text(
                String(decoding: metrics.render(), as: UTF8.self) + routes.metricsText() + relayMetrics(),
                contentType: .prometheus)
        }
        var configuration = HTTPServer.Configuration()
        configuration.port = port
        configuration.bodyBytesMax = IngestRoutes.bodyBytesMax
        return HTTPServer(configuration: configuration, router: router, metrics: metrics)
    }
}

/// The core's threads.
///
/// `@unchecked Sendable`: the scoring loop is touched by its own thread until that has ended.
final class CoreRole: @unchecked Sendable {
    private let log: Log
    private let eventLog: any IngestLog
    private let loop: ScoringLoop
    private let figures: CoreFigures
    private let stopping = StopSignal()
    private let wake = WakeSignal()
    let failed = StopSignal()
    private var loopThread: RoleThread?
    private var relayThread: RoleThread?
    /// What the relay has sent, as Prometheus text; nothing without one.
    private(set) var relayMetrics: @Sendable () -> String = { "" }

    init(log: Log, eventLog: any IngestLog, loop: ScoringLoop, figures: CoreFigures) {
        self.log = log
        self.eventLog = eventLog
        self.loop = loop
        self.figures = figures
        let wake = wake
        eventLog.onCommit = { _, _ in wake.wake() }
    }

    func startLoop() {
        loopThread = RoleThread(name: "scoring") { [self] in
            do {
                while !stopping.isStopped {
                    if case .assigned(let partition, let replayed) = try loop.step(), replayed > 0 {
                        log.info("replayed", ["partition": partition, "batches": replayed])
                    }
                }
                try loop.close()
                try eventLog.close()
            } catch {
                log.error("the scoring loop has ended", ["error": "\(error)"])
                failed.stop()
            }
        }
    }

    func startRelay(url: String, pipeline: String) throws {
        let publisher = try JetStreamPublisher(url: url, pipeline: pipeline, log: log)
        let relay = Relay(source: OwnChangelog(log: eventLog, figures: figures), publisher: publisher, log: log)
        let figures = relay.figures
        relayMetrics = { figures.metricsText(failedPublishes: publisher.failedPublishCount) }
        relayThread = RelayCommand.start(relay, publisher: publisher, wake: wake, stopping: stopping, log: log)
    }

    /// Stops pulling, commits what is under way, writes the view. Returns whether all of it ended in time.
    func stop() -> Bool {
        stopping.stop()
        wake.wake()
        let loopEnded = loopThread?.join(seconds: 20) ?? true
        let relayEnded = relayThread?.join(seconds: 5) ?? true
        log.info("stopped")
        return loopEnded && relayEnded && !failed.isStopped
    }
}
