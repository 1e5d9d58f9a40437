import Glibc
import Scoring

/// `tideline model check` and `tideline model score`: results on stdout, reasons on stderr, exit 2 on refusal.
enum ModelCommand {
    /// Says what a model file is and whether it runs here.
    static func check(path: String, json: Bool) -> Int32 {
        do throws(ModelError) {
            let forest = try Forest.load(path: path)
            print(json ? forest.description.json : forest.description.text)
            return 0
        } catch {
            if json { print(ModelDescription.refusal(error)) }
            complain("\(path): \(error)")
            return 2
        }
    }

    /// Scores the rows of a CSV file, one line of outputs a row. Streams; memory does not grow with the file.
    ///
    /// The header binds columns by name where the model has names, in any order, else by position. An empty cell is a
    /// missing value.
    static func score(model: String, rows: String) -> Int32 {
        do throws(ModelError) {
            let forest = try Forest.load(path: model)
            let reader = try LineReader(path: rows)
            guard let header = try reader.next() else {
                throw ModelError(.unreadable, "\(rows) is empty", remedy: "begin it with a header line")
            }
            let names = try RowFile.header(header)
            let places = try forest.bind(to: names, explicitOrder: true)
            let output = OutputBuffer()
            try score(forest, names, places, reader, output)
            try output.flush()
            return 0
        } catch {
            complain("\(error)")
            return 2
        }
    }

    /// Rows that are scored at once.
    private static let batch = 256

    private static func score(
        _ forest: Forest, _ names: [String], _ places: [Int32], _ reader: LineReader, _ output: OutputBuffer
    ) throws(ModelError) {
        let features = forest.featureCount
        let scratch = ForestScratch(for: forest)
        var columns = [Int](repeating: 0, count: names.count)
        for (feature, place) in places.enumerated() { columns[Int(place)] = feature }
        var rows = [Float](repeating: .nan, count: max(1, batch * features))
        var outputs = [Float](repeating: 0, count: batch * forest.outputCount)
        var waiting = 0
        // A bad row stops the run, but the rows before it are still answered.
        var failure: ModelError?
        while failure == nil {
            do throws(ModelError) {
                guard let line = try reader.next() else { break }
                if line.isEmpty, names.count != 1 { continue }
                try RowFile.parse(
                    line, number: reader.number, names: names, columns: columns, into: &rows, waiting * features)
                waiting += 1
            } catch {
                failure = error
            }
            if waiting == batch {
                try write(forest, scratch, &rows, &outputs, waiting, output)
                waiting = 0
            }
        }
        if waiting > 0 { try write(forest, scratch, &rows, &outputs, waiting, output) }
        if let failure {
            try output.flush()
            throw failure
        }
    }

    private static func write(
        _ forest: Forest, _ scratch: ForestScratch, _ rows: inout [Float], _ outputs: inout [Float], _ count: Int,
        _ output: OutputBuffer
    ) throws(ModelError) {
        unsafe forest.evaluate(
            rows: &rows, count: count, stride: forest.featureCount, scratch: scratch, outputs: &outputs,
            embeddings: nil)
        let width = forest.outputCount
        for row in 0..<count {
            for place in 0..<width {
                if place > 0 { output.append(UInt8(ascii: ",")) }
                output.append(outputs[row * width + place].description)
            }
            try output.endLine()
        }
    }

    private static func complain(_ message: String) {
        let line = Array("tideline: \(message)\n".utf8)
        _ = unsafe Glibc.write(STDERR_FILENO, line, line.count)
    }
}
