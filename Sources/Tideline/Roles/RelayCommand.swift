import Core
import Features
import Foundation
import NATS
import Replicate
import Service

/// `tideline relay`: publishes another process's log; a standby for a core whose own relay died with it.
enum RelayCommand {
    static let command = Command(
        name: "relay", summary: "Publish a log to the bus, and answer repairs.",
        discussion: """
            A core publishes by itself. A relay beside it covers the time in which the core is dead: what relays publish is
            decided by the log, so any number of them may run.
            """,
        options: [
            CommandOption("--dir", "DIR", default: ".tideline/world", help: "Folder of the log."),
            CommandOption(
                "--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"), help: "The pipeline file."),
            LogPlace.kafkaOption,
            CommandOption("--nats", "URL", default: "nats://127.0.0.1:8422", help: "The bus."),
        ],
        examples: ["tideline relay --dir /var/lib/tideline --nats nats://127.0.0.1:8422"],
        run: { try run($0) })

    static func run(_ arguments: ParsedArguments) throws -> Int32 {
        RoleShell.prepare()
        let log = Log(role: "relay")
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        let place = try LogPlace.Reading(arguments, pipeline, role: "relay")
        defer { place.end() }
        let reader = place.reader
        let publisher = try JetStreamPublisher(
            url: arguments.string("--nats") ?? "", pipeline: pipeline.name, log: log)
        let relay = Relay(source: FollowedChangelog(reader: reader), publisher: publisher, log: log)
        let stopping = StopSignal()
        let failed = StopSignal()
        let thread = start(
            relay, publisher: publisher, wake: WakeSignal(), stopping: stopping, log: log,
            pollMicroseconds: place.isKafka ? 50_000 : 5000, before: place.catchUp)
        log.info("ready", ["lineage": reader.lineage])
        let asked = RoleShell.waitForEnd(failed)
        stopping.stop()
        thread.join(seconds: 5)
        return asked ? 0 : 1
    }

    /// Runs a relay on a thread of its own. An error of the bus is told and tried again: the log has everything.
    static func start(
        _ relay: sending Relay, publisher: JetStreamPublisher, wake: WakeSignal, stopping: StopSignal, log: Log,
        pollMicroseconds: Int = 100_000, before: @escaping @Sendable () throws -> Void = {}
    ) -> RoleThread {
        let box = RelayBox(relay)
        return RoleThread(name: "relay") {
            while !stopping.isStopped {
                do {
                    try before()
                    if try box.relay.step() { continue }
                } catch {
                    log.warning("the relay could not send", ["error": "\(error)"])
                    stopping.wait(seconds: 0.5)
                }
                wake.wait(microseconds: pollMicroseconds)
            }
            publisher.close()
        }
    }
}

/// Hands a relay over to its thread.
///
/// `@unchecked Sendable`: from then on that thread alone touches it.
private final class RelayBox: @unchecked Sendable {
    let relay: Relay
    init(_ relay: Relay) { self.relay = relay }
}
