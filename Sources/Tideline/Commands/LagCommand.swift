import Features
import Foundation
import HTTP

/// `tideline lag`: how far each region is behind the core.
enum LagCommand {
    static let command = Command(
        name: "lag", summary: "Say how far the core is behind the events, and each region behind the core.",
        discussion: """
            Reads the endpoints file of a running world. Exit 1 where a region is not fresh. With --kafka it reads the log
            instead, and needs no core: records that wait, and the age of the oldest; both are 0 where nothing waits.
            """,
        options: [
            CommandOption("--endpoints", "FILE", help: "What `tideline up --endpoints FILE` wrote."),
            CommandOption(
                "--core", "URL", default: "http://127.0.0.1:8400", help: "The core, without an endpoints file."),
            CommandOption(
                "--regions", "LIST",
                default: "eu=http://127.0.0.1:8411,us=http://127.0.0.1:8412,ap=http://127.0.0.1:8413",
                help: "The regions, without an endpoints file."),
            LogPlace.kafkaOption,
            CommandOption(
                "--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"),
                help: "The pipeline file, with --kafka."),
            CommandOption("--json", help: "Print JSON."),
        ],
        examples: [
            "tideline lag", "tideline lag --kafka 127.0.0.1:9092", "tideline lag --json --endpoints world.json",
        ],
        run: { try run($0) })

    static func run(_ arguments: ParsedArguments) throws -> Int32 {
        if arguments.string("--kafka") != nil { return try logLag(arguments) }
        let endpoints = try Endpoints(arguments)
        let core = Endpoints.status(endpoints.core)
        let backlog = (core?["backlogEvents"] as? NSNumber)?.intValue
        let age = (core?["backlogAgeMilliseconds"] as? NSNumber)?.intValue
        var heads: [Int: Int] = [:]
        for head in core?["heads"] as? [[String: Any]] ?? [] {
            if let partition = (head["partition"] as? NSNumber)?.intValue {
                heads[partition] = (head["seq"] as? NSNumber)?.intValue
            }
        }
        var regions: [[String: Any]] = []
        for (name, url) in endpoints.regions.sorted(by: { $0.key < $1.key }) {
            var entry: [String: Any] = ["region": name, "state": "unreachable"]
            if let status = Endpoints.status(url) {
                entry["state"] = status["state"]
                entry["stalenessMilliseconds"] = status["stalenessMilliseconds"]
                entry["lagBatches"] = (status["partitions"] as? [[String: Any]] ?? []).reduce(0) { total, partition in
                    let own = (partition["seq"] as? NSNumber)?.intValue ?? 0
                    let number = (partition["partition"] as? NSNumber)?.intValue ?? 0
                    return total + max(0, (heads[number] ?? (partition["head"] as? NSNumber)?.intValue ?? 0) - own)
                }
            }
            regions.append(entry)
        }
        if arguments.flag("--json") {
            let object: [String: Any] = [
                "backlogEvents": backlog ?? NSNull(), "backlogAgeMilliseconds": age ?? NSNull(), "regions": regions,
            ]
            let data = try JSONSerialization.data(withJSONObject: object, options: [.sortedKeys, .prettyPrinted])
            print(String(decoding: data, as: UTF8.self))
        } else {
            print(
                "core    \(backlog.map { "\($0) events waiting, the oldest for \(age ?? 0) ms" } ?? "does not answer")")
            for entry in regions {
                let staleness = (entry["stalenessMilliseconds"] as? NSNumber).map { "\($0) ms" } ?? "–"
                print(
                    "\(entry["region"] ?? "")      \(entry["state"] ?? "")  \(staleness) old  \(entry["lagBatches"] ?? "–") batches behind"
                )
            }
        }
        return core != nil && regions.allSatisfy { $0["state"] as? String == "fresh" } ? 0 : 1
    }
}

extension LagCommand {
    private static func logLag(_ arguments: ParsedArguments) throws -> Int32 {
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        let place = try LogPlace.Reading(arguments, pipeline, role: "lag")
        defer { place.end() }
        let lag = try LogLag(place.reader)
        if arguments.flag("--json") {
            let data = try JSONSerialization.data(withJSONObject: lag.object, options: [.sortedKeys, .prettyPrinted])
            print(String(decoding: data, as: UTF8.self))
        } else {
            print(lag.text)
        }
        return 0
    }
}

/// Where a world's processes answer.
struct Endpoints {
    let core: String
    let regions: [String: String]

    init(_ arguments: ParsedArguments) throws {
        if let path = arguments.string("--endpoints") {
            guard let data = FileManager.default.contents(atPath: path),
                let object = (try? JSONSerialization.jsonObject(with: data)) as? [String: Any],
                let core = object["core"] as? String, let regions = object["regions"] as? [String: String]
            else { throw UsageError("\(path) is no endpoints file of a running world") }
            self.core = core
            self.regions = regions
            return
        }
        core = arguments.string("--core") ?? ""
        var regions: [String: String] = [:]
        for pair in (arguments.string("--regions") ?? "").split(separator: ",") {
            let sides = pair.split(separator: "=", maxSplits: 1).map(String.init)
            guard sides.count == 2 else { throw UsageError("--regions is a list such as eu=URL,us=URL") }
            regions[sides[0]] = sides[1]
        }
        self.regions = regions
    }

    /// A process's status; `nil` where it does not answer.
    static func status(_ url: String) -> [String: Any]? {
        var configuration = HTTPClient.Configuration()
        configuration.timeout = .seconds(3)
        let client = HTTPClient(configuration: configuration)
        guard let answer = try? client.get(url + "/v1/status"), answer.status == 200 else { return nil }
        return (try? JSONSerialization.jsonObject(with: Data(answer.body))) as? [String: Any]
    }
}
