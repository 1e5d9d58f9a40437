import Changes
import Core
import Features
import Foundation
import Service

/// `tideline verify`: reads a log's input and output, and says whether each event was scored exactly once, and whether
/// each region holds what the log says.
enum VerifyCommand {
    static let command = Command(
        name: "verify", summary: "Prove from the log that each event was scored exactly once, and each region agrees.",
        discussion: """
            Reads the input, the changelog, the scores and the dead letters beside a running world. Each event must be
            scored once, dropped as a duplicate of one that is, or a dead letter; what is not yet committed is counted as
            waiting. With --recompute every feature and score is made again from the input and compared bit by bit.
            """,
        options: [
            CommandOption("--dir", "DIR", default: ".tideline/world", help: "The world's folder."),
            CommandOption(
                "--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"), help: "The pipeline file."),
            LogPlace.kafkaOption,
            CommandOption("--endpoints", "FILE", help: "Compare the regions that this file names, too."),
            CommandOption("--recompute", help: "Make features and scores again, and compare them bit by bit."),
            CommandOption("--json", help: "Print JSON."),
        ],
        examples: ["tideline verify", "tideline verify --dir /tmp/w --endpoints world.json --json"],
        run: { try run($0) })

    static func run(_ arguments: ParsedArguments) throws -> Int32 {
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        let place = try LogPlace.Reading(arguments, pipeline, role: "verify")
        defer { place.end() }
        var verification = Verification(reader: place.reader, pipeline: pipeline)
        // Regions first, then the log: what a region holds is then in the log that is read.
        let endpoints = arguments.string("--endpoints") == nil ? nil : try Endpoints(arguments)
        let statuses = endpoints?.regions.mapValues { Endpoints.status($0) } ?? [:]
        try place.catchUp()
        try verification.readLog()
        verification.compare(statuses)
        if arguments.flag("--recompute") { try verification.recompute(model: ModelFile.load(pipeline)) }
        print(arguments.flag("--json") ? try verification.json() : verification.text)
        return verification.holds ? 0 : 1
    }
}
