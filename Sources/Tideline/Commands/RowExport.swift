import Changes
import Core
import Features

/// Writes a log's committed events with their features and scores as NDJSON, in the order of commit.
///
/// It shows what the log holds and computes nothing, so that another program can say whether the log is right.
final class RowExport {
    private(set) var scored = 0
    private(set) var duplicates = 0
    private(set) var deadLetters = 0
    private let reader: any LogReader
    private let pipeline: Pipeline
    private let out: OutputFile

    /// What the log says of one offset; an offset of which it says nothing was a duplicate.
    private enum Outcome {
        case scored(flags: EventRecord.Flags, row: [Float], score: Float)
        case deadLetter(reason: String)
    }

    init(_ reader: any LogReader, _ pipeline: Pipeline, to out: OutputFile) {
        self.reader = reader
        self.pipeline = pipeline
        self.out = out
    }

    func run(_ show: (_ done: Int, _ batches: Int) -> Void) throws {
        try out.append { header(&$0) }
        let batches = try CommittedBatch.inOrder(reader)
        for (index, place) in batches.enumerated() {
            if let batch = try place.changes(reader) { try write(batch, place) }
            show(index + 1, batches.count)
        }
        try out.flush()
    }

    private func header(_ bytes: inout [UInt8]) {
        bytes.append(contentsOf: "{\"pipeline\":".utf8)
        JSONBytes.append(pipeline.name.utf8, to: &bytes)
        bytes.append(contentsOf: ",\"schema\":\(pipeline.schema),\"lineage\":\"\(reader.lineage)\"".utf8)
        bytes.append(contentsOf: ",\"partitions\":\(reader.partitions),\"features\":[".utf8)
        for (index, name) in pipeline.featureNames.enumerated() {
            if index > 0 { bytes.append(UInt8(ascii: ",")) }
            JSONBytes.append(name.utf8, to: &bytes)
        }
        bytes.append(contentsOf: "]}\n".utf8)
    }

    private func write(_ batch: ChangeBatch, _ place: CommittedBatch) throws {
        let outcomes = try outcomes(batch, place)
        let head = batch.header
        let frontier = batch.frontier.map { "\"\($0.partition)\":\($0.seq)" }.joined(separator: ",")
        try out.append {
            $0.append(contentsOf: "{\"partition\":\(head.partition),\"seq\":\(head.seq)".utf8)
            $0.append(contentsOf: ",\"firstOffset\":\(head.firstOffset),\"endOffset\":\(head.endOffset)".utf8)
            $0.append(contentsOf: ",\"frontier\":{\(frontier)},\"watermark\":\(head.watermark)".utf8)
            $0.append(contentsOf: ",\"commitTime\":\(head.commitTime),\"events\":[".utf8)
        }
        var isFirst = true
        try unsafe reader.input(of: place.partition, from: head.firstOffset) { offset, event, appendTime in
            guard offset < head.endOffset else { return false }
            defer { isFirst = false }
            try out.append { bytes in
                if !isFirst { bytes.append(UInt8(ascii: ",")) }
                bytes.append(contentsOf: "{\"offset\":\(offset),\"appendTime\":\(appendTime),\"event\":".utf8)
                unsafe JSONBytes.append(event, to: &bytes)
                write(outcomes[offset], to: &bytes)
                bytes.append(UInt8(ascii: "}"))
            }
            return true
        }
        try out.append { $0.append(contentsOf: "]}\n".utf8) }
    }

    private func outcomes(_ batch: ChangeBatch, _ place: CommittedBatch) throws -> [UInt64: Outcome] {
        var outcomes: [UInt64: Outcome] = [:]
        batch.forEachChange { change in
            guard change.kind == .event, let record = unsafe EventRecord(change.value) else { return }
            let row = (0..<record.featureCount).map { record.feature($0) }
            outcomes[record.inputOffset] = .scored(flags: record.flags, row: row, score: record.score)
        }
        guard batch.header.deadLetters > 0 else { return outcomes }
        try reader.deadLetters(of: place.partition, after: place.seq - 1) { seq, letters in
            guard seq == place.seq else { return false }
            for letter in letters { outcomes[letter.offset] = .deadLetter(reason: letter.reason) }
            return false
        }
        return outcomes
    }

    private func write(_ outcome: Outcome?, to bytes: inout [UInt8]) {
        switch outcome {
        case .scored(let flags, let row, let score):
            scored += 1
            bytes.append(contentsOf: ",\"outcome\":\"scored\",\"flags\":[\(Self.names(flags))],\"features\":[".utf8)
            for (index, value) in row.enumerated() {
                if index > 0 { bytes.append(UInt8(ascii: ",")) }
                Self.append(value, to: &bytes)
            }
            bytes.append(contentsOf: "],\"score\":".utf8)
            Self.append(score, to: &bytes)
        case .deadLetter(let reason):
            deadLetters += 1
            bytes.append(contentsOf: ",\"outcome\":\"deadLetter\",\"reason\":".utf8)
            JSONBytes.append(reason.utf8, to: &bytes)
        case nil:
            duplicates += 1
            bytes.append(contentsOf: ",\"outcome\":\"duplicate\"".utf8)
        }
    }

    private static func names(_ flags: EventRecord.Flags) -> String {
        let known: [(EventRecord.Flags, String)] = [
            (.flagged, "\"flagged\""), (.degraded, "\"degraded\""), (.fromFuture, "\"fromFuture\""),
            (.late, "\"late\""),
        ]
        return known.filter { flags.contains($0.0) }.map(\.1).joined(separator: ",")
    }

    /// Swift writes the shortest text that reads back as the same Float32; JSON has no infinity, so it is a text.
    private static func append(_ value: Float, to bytes: inout [UInt8]) {
        if value.isNaN {
            bytes.append(contentsOf: "null".utf8)
        } else if value.isInfinite {
            bytes.append(contentsOf: value > 0 ? "\"Infinity\"".utf8 : "\"-Infinity\"".utf8)
        } else {
            bytes.append(contentsOf: value.description.utf8)
        }
    }
}
