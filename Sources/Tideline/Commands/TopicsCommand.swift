import Features
import Foundation
import Kafka
import Service

/// `tideline topics`: what a log in Kafka needs, what is there, and making what is missing.
enum TopicsCommand {
    static let plan = command(
        "plan", "Print the topics that a pipeline needs, to ask for them where we may not make them.",
        "Asks nobody: works without a broker.", run: plan)
    static let check = command(
        "check", "Say which topics are there and whether they fit.", "Exit 1 where one is missing or does not fit.",
        run: check)
    static let create = command(
        "create", "Make the topics that are missing.",
        "An input topic that is there is taken as it is, and the others get its number of partitions.", run: create)

    private static func command(
        _ name: String, _ summary: String, _ discussion: String,
        run: @escaping @Sendable (KafkaConfiguration, Int) throws -> Int32
    ) -> Command {
        Command(
            name: "topics \(name)", summary: summary, discussion: discussion,
            options: [
                LogPlace.kafkaOption,
                CommandOption(
                    "--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"), help: "The pipeline file."),
                CommandOption("--partitions", "N", default: "4", help: "Partitions of an input topic that is made."),
            ],
            examples: ["tideline topics \(name) --kafka 127.0.0.1:9092"],
            run: { arguments in
                let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
                guard let configuration = try LogPlace.kafka(arguments, pipeline) else {
                    throw UsageError("add --kafka HOST:PORT, or `kafka: { bootstrap.servers: … }` to \(pipeline.file)")
                }
                return try run(configuration, try arguments.int("--partitions", in: 1...1024) ?? 4)
            })
    }

    private static func plan(_ configuration: KafkaConfiguration, _ partitions: Int) -> Int32 {
        for topic in KafkaTopics.plan(configuration, partitions: partitions) {
            print("\(topic.name)  \(topic.partitions) partitions  # \(topic.purpose)")
            for setting in topic.settings { print("    \(setting.name)=\(setting.value)") }
        }
        print(
            """

            Changes, scores and dead letters need as many partitions as the input. Replication is the cluster's own; with three
            brokers ask for replication 3 and min.insync.replicas=2. Rights: docs/kafka.md.
            """)
        return 0
    }

    private static func check(_ configuration: KafkaConfiguration, _ partitions: Int) throws -> Int32 {
        let found = try KafkaTopics(configuration, log: Log(role: "topics", minimum: .error)).found()
        var fits = true
        for topic in found {
            let verdict: String
            if let have = topic.partitions {
                verdict = have == topic.wanted ? "\(have) partitions" : "\(have) partitions, not \(topic.wanted ?? 0)"
            } else {
                verdict = "missing: `tideline topics create` makes it"
            }
            fits = fits && topic.partitions != nil && topic.partitions == topic.wanted
            print("\(topic.name)  \(verdict)")
        }
        return fits ? 0 : 1
    }

    private static func create(_ configuration: KafkaConfiguration, _ partitions: Int) throws -> Int32 {
        let made = try KafkaTopics(configuration, log: Log(role: "topics", minimum: .error)).create(
            partitions: partitions)
        for topic in made { print("made \(topic.name) with \(topic.partitions) partitions") }
        if made.isEmpty { print("all topics are there") }
        return 0
    }
}
