import Changes
import Core
import Features
import Service

/// Makes a training table of events, by the assembler that runs online: a row an event, in the file's order.
///
/// Each event counts as taken by the log at its own time, so that neither duplicates nor late events differ from a log
/// that saw it live.
final class TableExport {
    struct Options {
        /// The kept field that holds the truth; without one the label is empty.
        var label: String?
        var rule: LabelRule
        /// Kept fields that become columns named `field.NAME`.
        var fields: [String] = []
        /// Part of the rows that is written; windows see every event all the same.
        var sample = 1.0
    }

    private(set) var rows = 0
    private(set) var refused = 0
    private(set) var duplicates: UInt32 = 0
    private(set) var firstReason: String?
    private let pipeline: Pipeline
    private let source: ReplaySource
    private let out: OutputFile
    private let options: Options
    private let labelColumn: Int?
    private let fieldColumns: [Int]
    private let assembler: Assembler
    private let decoder: EventDecoder
    private let batch = EventBatch(eventsMax: 1000)
    private var latest: Int64 = 0
    private var offset: UInt64 = 0

    init(_ pipeline: Pipeline, from source: ReplaySource, to out: OutputFile, _ options: Options) throws {
        self.pipeline = pipeline
        self.source = source
        self.out = out
        self.options = options
        func column(_ name: String) throws -> Int {
            if let index = pipeline.kept.first(where: { pipeline.columns[$0].name == name }) { return index }
            let known = pipeline.kept.map { pipeline.columns[$0].name }.joined(separator: ", ")
            throw UsageError("the pipeline keeps no field `\(name)`; it keeps \(known)")
        }
        labelColumn = try options.label.map(column)
        fieldColumns = try options.fields.map(column)
        assembler = Assembler(pipeline, model: nil, state: FeatureState(pipeline, partitions: 1), eventsMax: 1000)
        decoder = EventDecoder(pipeline)
    }

    func run(_ show: () -> Void) throws {
        let header = ["id", "time", "label"] + options.fields.map { "field.\($0)" } + pipeline.featureNames
        try out.append { bytes in
            for (index, name) in header.enumerated() {
                if index > 0 { bytes.append(UInt8(ascii: ",")) }
                Self.cell(name.utf8, to: &bytes)
            }
            bytes.append(10)
        }
        var isEnded = false
        while !isEnded {
            batch.begin(partition: 0, firstOffset: offset)
            while !batch.isFull, !isEnded { isEnded = try !take() }
            offset = batch.endOffset
            try writeBatch()
            show()
        }
        try out.flush()
    }

    /// Moves the source's next row into the batch. Returns whether there was one.
    private func take() throws -> Bool {
        switch try source.next() {
        case .end: return false
        case .refused(let reason): refuse("row \(source.row): \(reason)")
        case .event:
            unsafe source.event.withUnsafeBytes { event in
                if unsafe decoder.decode(event, readable: event.count) == nil { latest = max(latest, decoder.time) }
                unsafe batch.append(event, appendTime: latest)
            }
        }
        return true
    }

    private func refuse(_ reason: String) {
        refused += 1
        if firstReason == nil { firstReason = reason }
    }

    private func writeBatch() throws {
        var letters = ByteWriter()
        let tally = assembler.assemble(batch, deadLetters: &letters)
        duplicates += tally.duplicates
        if tally.deadLetters > 0 {
            let reasons = unsafe DeadLetter.read(letters.bytes)?.map(\.reason) ?? []
            for index in 0..<Int(tally.deadLetters) { refuse(index < reasons.count ? reasons[index] : "refused") }
        }
        try unsafe assembler.forEachRow { _, time, id, fields, row, _ in
            if options.sample < 1, unsafe Double(stableHash(id, seed: 0x7361_6D70) >> 11) / 0x1p53 >= options.sample {
                return
            }
            rows += 1
            try out.append { bytes in
                unsafe Self.cell(id, to: &bytes)
                bytes.append(contentsOf: ",\(time),".utf8)
                unsafe writeFields(fields, to: &bytes)
                for index in row.indices {
                    bytes.append(UInt8(ascii: ","))
                    let value = unsafe row[index]
                    // Swift writes the shortest text that reads back as the same Float32.
                    if !value.isNaN { bytes.append(contentsOf: value.description.utf8) }
                }
                bytes.append(10)
            }
        }
        assembler.commit(partition: 0)
    }

    /// The label, then the fields that were asked for.
    private func writeFields(_ fields: UnsafeRawBufferPointer, to bytes: inout [UInt8]) {
        var label: UInt8?
        var cells = [KeptFields.Value](repeating: .missing, count: fieldColumns.count)
        unsafe KeptFields.forEach(in: fields, of: pipeline) { column, value in
            if column == labelColumn {
                switch value {
                case .missing: label = nil
                case .number(let number): label = options.rule.holds(for: number) ? 49 : 48
                case .text(let text): label = options.rule.holds(for: text) ? 49 : 48
                }
            }
            if let index = fieldColumns.firstIndex(of: column) { cells[index] = value }
        }
        if let label { bytes.append(label) }
        for value in cells {
            bytes.append(UInt8(ascii: ","))
            switch value {
            case .missing: break
            case .number(let number): bytes.append(contentsOf: number.description.utf8)
            case .text(let text): Self.cell(text.utf8, to: &bytes)
            }
        }
    }

    /// A cell, in RFC 4180's quotes where it needs them.
    static func cell(_ text: some Collection<UInt8>, to bytes: inout [UInt8]) {
        guard text.contains(where: { $0 == 44 || $0 == 34 || $0 == 10 || $0 == 13 }) else {
            bytes.append(contentsOf: text)
            return
        }
        bytes.append(34)
        for byte in text {
            if byte == 34 { bytes.append(34) }
            bytes.append(byte)
        }
        bytes.append(34)
    }
}
