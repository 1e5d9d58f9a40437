/// Rows with the outputs that the model's trainer recorded for them: `{"rows": [[…]], "outputs": [[…]]}`, where null
/// is a missing value. They travel with a model and are checked when it is loaded.
package struct GoldenRows: Sendable {
    package let rows: [[Float]]
    package let outputs: [[Float]]

    package init(rows: [[Float]], outputs: [[Float]]) {
        self.rows = rows
        self.outputs = outputs
    }

    /// Reads the file. Blocks on the disk.
    package static func load(path: String) throws(ModelError) -> GoldenRows {
        try GoldenRows(bytes: try ModelFile.read(path))
    }

    package init(bytes: [UInt8]) throws(ModelError) {
        let file = ModelNode(value: try JSONModelReader.read(bytes), path: "")
        rows = try Self.table(try file.member("rows"))
        outputs = try Self.table(try file.member("outputs"))
        guard rows.count == outputs.count else {
            throw ModelError(.golden, "\(rows.count) golden rows with \(outputs.count) outputs")
        }
    }

    private static func table(_ node: ModelNode) throws(ModelError) -> [[Float]] {
        var table: [[Float]] = []
        for row in try node.elements() {
            if case .array = row.value {
                var values: [Float] = []
                for element in try row.elements() {
                    switch element.value {
                    case .null: values.append(.nan)
                    case .integer(let number): values.append(Float(number))
                    case .float(let number): values.append(number)
                    default: throw element.wrong("a number or null")
                    }
                }
                table.append(values)
            } else {
                table.append(try row.floats())
            }
        }
        return table
    }
}

extension Forest {
    /// Scores the golden rows; throws at the first output that is off by more than 1e-6 of max(1, |recorded|).
    package func check(golden: GoldenRows) throws(ModelError) {
        let scratch = ForestScratch(for: self)
        var outputs = [Float](repeating: 0, count: outputCount)
        for (index, (row, wanted)) in zip(golden.rows, golden.outputs).enumerated() {
            guard row.count == featureCount, wanted.count == outputCount else {
                throw ModelError(
                    .golden,
                    "golden row \(index) has \(row.count) features and \(wanted.count) outputs; the model has "
                        + "\(featureCount) and \(outputCount)")
            }
            unsafe evaluate(
                rows: row, count: 1, stride: featureCount, scratch: scratch, outputs: &outputs, embeddings: nil)
            for (got, want) in zip(outputs, wanted) where !(abs(got - want) <= 1e-6 * max(1, abs(want))) {
                throw ModelError(.golden, "golden row \(index): \(got) instead of \(want)")
            }
        }
    }
}
