import Core
import Features
import Foundation
import Kafka
import Service

/// Which log a command works on: the embedded one of a folder, or Kafka.
enum LogPlace {
    static let kafkaOption = CommandOption(
        "--kafka", "HOST:PORT",
        help: "The log is in Kafka; more properties in the pipeline file's `kafka` section. See docs/kafka.md.")

    /// Where Kafka is, by `--kafka` or the pipeline file; `nil` for the embedded log.
    static func kafka(_ arguments: ParsedArguments, _ pipeline: Pipeline) throws -> KafkaConfiguration? {
        var properties: [String: String] = [:]
        for (name, setting) in pipeline.kafka {
            switch setting {
            case .text(let value): properties[name] = value
            case .environment(let variable):
                guard let value = ProcessInfo.processInfo.environment[variable] else {
                    throw UsageError("\(pipeline.file): kafka.\(name): the environment has no \(variable)")
                }
                properties[name] = value
            case .file(let path):
                guard let data = FileManager.default.contents(atPath: path) else {
                    throw UsageError("\(pipeline.file): kafka.\(name): \(path) cannot be read")
                }
                properties[name] = String(decoding: data, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
            }
        }
        let topic = properties.removeValue(forKey: "topic") ?? "events"
        let listed = properties.removeValue(forKey: "bootstrap.servers")
        guard let servers = arguments.string("--kafka") ?? listed else { return nil }
        var configuration = KafkaConfiguration(
            bootstrapServers: servers, pipeline: pipeline.name, input: topic, properties: properties)
        configuration.commitIntervalMicroseconds = Int64(pipeline.limits.latencyBudgetMicroseconds)
        return configuration
    }

    /// A log to read, and what brings a reader of the embedded one up to the writer's last state.
    struct Reading {
        let reader: any LogReader
        let catchUp: @Sendable () throws -> Void
        let isKafka: Bool
        private let scratch: String?

        /// Opens the log beside whoever writes it.
        init(_ arguments: ParsedArguments, _ pipeline: Pipeline, role: String) throws {
            if let configuration = try LogPlace.kafka(arguments, pipeline) {
                reader = try KafkaLogReader(configuration, founds: false, log: Log(role: role, minimum: .error))
                catchUp = {}
                isKafka = true
                scratch = nil
                return
            }
            let scratch = NSTemporaryDirectory() + "/tideline-\(role)-\(ProcessInfo.processInfo.processIdentifier)"
            let dir = arguments.string("--dir") ?? ".tideline/world"
            let embedded = try EmbeddedLogReader(following: "\(dir)/log", scratch: scratch)
            reader = embedded
            catchUp = { try embedded.store.catchUp() }
            isKafka = false
            self.scratch = scratch
        }

        /// Removes what the reader kept for itself.
        func end() {
            if let scratch { try? FileManager.default.removeItem(atPath: scratch) }
        }
    }
}
