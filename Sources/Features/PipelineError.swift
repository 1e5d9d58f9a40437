/// A mistake in a pipeline file, told with the place and what to do about it.
package struct PipelineError: Error, CustomStringConvertible, Equatable {
    package let file: String
    package let line: Int
    /// The field's path in the file, such as `features[2].windows.over`.
    package let field: String
    package let problem: String
    package let remedy: String

    package var description: String {
        "\(file):\(line): \(field.isEmpty ? "" : "\(field): ")\(problem); \(remedy)"
    }
}
