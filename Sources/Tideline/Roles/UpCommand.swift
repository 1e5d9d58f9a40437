import Features
import Foundation
import Glibc

/// `tideline up`: a whole world on one machine, watched and shown on one screen.
enum UpCommand {
    static let command = Command(
        name: "up", summary: "Run a whole world on this machine: bus, core, three regions, live traffic.",
        discussion: """
            Starts everything on embedded defaults, starts a process again when it dies, and ends all of it on Ctrl-C.
            Where there is no terminal it prints plain lines.
            """,
        options: [
            CommandOption(
                "--dir", "DIR", default: ".tideline/world", help: "Where the world lives; it is taken up again."),
            CommandOption(
                "--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"), help: "The pipeline file."),
            CommandOption("--partitions", "N", help: "Partitions of a new log (default 4)."),
            LogPlace.kafkaOption,
            CommandOption("--cores", "N", default: "1", help: "Cores that share the partitions of a Kafka log."),
            CommandOption(
                "--standbys", "N", default: "0",
                help: "Further cores, which take over from the first that falls silent."),
            CommandOption("--regions", "LIST", default: "eu,us,ap", help: "Names of the regions."),
            CommandOption(
                "--rate", "N", default: "1000", help: "Events a second that the generator makes; 0 for none."),
            CommandOption("--ports", "free", help: "Take free ports instead of 8400, 8411… and 8422."),
            CommandOption(
                "--endpoints", "FILE", help: "Write the URLs and process ids there once every region is fresh."),
            CommandOption(
                "--sealer", "ARGUMENTS",
                help:
                    "Further arguments of the sealer, such as '--rows 20000 --interval 20'; see `tideline sealer --help`."
            ),
            CommandOption("--seconds", "N", help: "End by itself after so long."),
        ],
        examples: [
            "tideline up", "tideline up --rate 0 --pipeline my.yaml",
            "tideline up --ports free --endpoints /tmp/world.json",
        ],
        run: { try run($0) })

    static func run(_ arguments: ParsedArguments) throws -> Int32 {
        RoleShell.prepare()
        let regions = (arguments.string("--regions") ?? "").split(separator: ",").map(String.init)
        guard !regions.isEmpty, Set(regions).count == regions.count, regions.count <= 8,
            regions.allSatisfy({
                $0.utf8.allSatisfy { ($0 >= 0x61 && $0 <= 0x7A) || ($0 >= 0x30 && $0 <= 0x39) || $0 == 0x2D }
            })
        else {
            throw UsageError("--regions is a list of up to eight different names of a-z, 0-9 and -, such as eu,us,ap")
        }
        if let ports = arguments.string("--ports"), ports != "free" { throw UsageError("--ports takes one word: free") }
        let rate = arguments.string("--rate") ?? "1000"
        guard rate == "max" || Int(rate).map({ $0 >= 0 }) == true else {
            throw UsageError("--rate is a whole number, or max")
        }
        let kafka = try LogPlace.kafka(arguments, Pipeline(path: arguments.string("--pipeline") ?? ""))
        let cores = try arguments.int("--cores", in: 1...16) ?? 1
        let standbys = try arguments.int("--standbys", in: 0...16) ?? 0
        guard cores + standbys == 1 || kafka != nil else {
            throw UsageError("--cores and --standbys need a log that cores can share: add --kafka HOST:PORT")
        }
        let world = try World(
            .init(
                dir: arguments.string("--dir") ?? ".tideline/world",
                pipeline: arguments.string("--pipeline") ?? "",
                partitions: try arguments.int("--partitions", in: 1...1024), kafka: kafka?.bootstrapServers,
                cores: cores, standbys: standbys,
                regions: regions, rate: rate, freePorts: arguments.string("--ports") != nil,
                sealer: (arguments.string("--sealer") ?? "").split(separator: " ").map(String.init),
                endpoints: arguments.string("--endpoints")))
        defer { world.stop() }
        let deadline = try arguments.double("--seconds").map { Date(timeIntervalSinceNow: $0) }
        let screen = WorldScreen(world)
        try world.start()
        screen.say(
            "starting: \(world.children.map(\.name).joined(separator: ", ")); their logs: \(world.configuration.dir)/logs"
        )
        return try watch(world, screen, until: deadline)
    }

    private static func watch(_ world: World, _ screen: WorldScreen, until deadline: Date?) throws -> Int32 {
        let began = Date()
        var ready = false
        var nextLook = Date.distantPast
        while true {
            if signalled() || deadline.map({ Date() >= $0 }) == true {
                screen.end("stopping")
                return 0
            }
            try world.tend { screen.say($0) }
            guard Date() >= nextLook else { continue }
            nextLook = Date(timeIntervalSinceNow: ready ? 1 : 0.1)
            let regions = world.regionStates()
            if !ready {
                if regions.count == world.configuration.regions.count,
                    regions.values.allSatisfy({ $0["state"] as? String == "fresh" })
                {
                    ready = true
                    try world.becameReady()
                    screen.ready(seconds: Date().timeIntervalSince(began))
                } else if Date().timeIntervalSince(began) > 60,
                    let slow = world.children.first(where: { $0.restarts > 2 })
                {
                    throw WorldError("\(slow.name) does not stay up; the end of its log:\n\(slow.tail)")
                }
            } else {
                screen.show(core: world.status("core"), regions: regions)
            }
        }
    }

    /// Waits a moment for a signal that ends the world.
    private static func signalled() -> Bool {
        var signals = sigset_t()
        unsafe sigemptyset(&signals)
        for signal in [SIGTERM, SIGINT] { unsafe sigaddset(&signals, signal) }
        var timeout = timespec(tv_sec: 0, tv_nsec: 50_000_000)
        return unsafe sigtimedwait(&signals, nil, &timeout) > 0
    }
}
