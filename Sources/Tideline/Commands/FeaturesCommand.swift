import Changes
import Core
import Features
import Foundation
import Glibc

/// `tideline features`: a pipeline's features, and the table that a model is trained on.
enum FeaturesCommand {
    static let check = Command(
        name: "features check", summary: "Check a pipeline file, and list its features.", arguments: ["[PIPELINE]"],
        examples: ["tideline features check pipelines/cards.yaml"],
        run: { arguments in
            let pipeline = try Pipeline(path: arguments.positional.first ?? Places.file("pipelines/cards.yaml"))
            let state = FeatureState(pipeline, partitions: 4)
            print("pipeline \(pipeline.name): \(pipeline.features.count) features")
            for (entity, bytes) in zip(pipeline.entities, state.recordBytes) {
                print("  \(entity.name): \(bytes) bytes in memory each, with 4 partitions")
            }
            for name in pipeline.featureNames { print("  \(name)") }
            return 0
        })

    static let export = Command(
        name: "features export", summary: "Make the training table from events, by the code that runs online.",
        discussion:
            "Events are read in order from NDJSON. The table has id, time, label and the features, one row an event.",
        options: [
            CommandOption(
                "--pipeline", "FILE", default: Places.file("pipelines/cards.yaml"), help: "The pipeline file."),
            CommandOption("--in", "FILE", help: "Events, one JSON object a line."),
            CommandOption("--out", "FILE", help: "The table, as CSV."),
            CommandOption(
                "--label", "FIELD", default: "scenario", help: "The field whose value above 0 is the label 1."),
        ],
        examples: ["tideline features export --in days.ndjson --out table.csv"],
        run: { try export($0) })

    private static func export(_ arguments: ParsedArguments) throws -> Int32 {
        let pipeline = try Pipeline(path: arguments.string("--pipeline") ?? "")
        guard let input = arguments.string("--in"), let output = arguments.string("--out") else {
            throw UsageError("features export needs --in FILE and --out FILE")
        }
        guard let column = pipeline.columns.firstIndex(where: { $0.name == arguments.string("--label") }) else {
            throw UsageError("the pipeline has no field `\(arguments.string("--label") ?? "")`")
        }
        guard let source = unsafe fopen(input, "r") else {
            throw WorldError(unsafe "\(input): \(String(cString: strerror(errno)))")
        }
        defer { unsafe fclose(source) }
        guard let target = unsafe fopen(output, "w") else {
            throw WorldError(unsafe "\(output): \(String(cString: strerror(errno)))")
        }
        defer { unsafe fclose(target) }
        unsafe fputs((["id", "time", "label"] + pipeline.featureNames).joined(separator: ",") + "\n", target)
        let assembler = Assembler(pipeline, model: nil, state: FeatureState(pipeline, partitions: 1), eventsMax: 1000)
        let batch = EventBatch(eventsMax: 1000)
        var line: UnsafeMutablePointer<CChar>?
        var capacity = 0
        defer { unsafe free(line) }
        var offset: UInt64 = 0
        var rows = 0
        var ended = false
        while !ended {
            batch.begin(partition: 0, firstOffset: offset)
            while !batch.isFull {
                let length = unsafe getline(&line, &capacity, source)
                guard length > 0 else {
                    ended = true
                    break
                }
                unsafe batch.append(UnsafeRawBufferPointer(start: line, count: length - 1), appendTime: .max / 2)
            }
            offset = batch.endOffset
            var letters = ByteWriter()
            let tally = assembler.assemble(batch, deadLetters: &letters)
            if tally.deadLetters > 0 {
                let reason = unsafe DeadLetter.read(letters.bytes)?.first?.reason ?? ""
                FileHandle.standardError.write(
                    Data("\(tally.deadLetters) events were refused, such as: \(reason)\n".utf8))
            }
            var text = ""
            unsafe assembler.forEachRow { _, time, id, fields, row, _ in
                var label = "0"
                unsafe KeptFields.forEach(in: fields, of: pipeline) { kept, value in
                    if kept == column, case .number(let number) = value, number > 0 { label = "1" }
                }
                text += unsafe "\(String(decoding: id, as: UTF8.self)),\(time),\(label)"
                for index in row.indices { text += unsafe row[index].isNaN ? "," : ",\(row[index])" }
                text += "\n"
                rows += 1
            }
            assembler.commit(partition: 0, now: 0)
            unsafe fputs(text, target)
        }
        FileHandle.standardError.write(Data("\(rows) rows of \(pipeline.features.count) features\n".utf8))
        return 0
    }
}
