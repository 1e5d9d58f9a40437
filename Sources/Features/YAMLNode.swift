internal import CYAML

/// A node of a YAML document that remembers its line, so that an error can point at it.
package struct YAMLNode: Sendable {
    package indirect enum Content: Sendable {
        case scalar(String)
        case sequence([YAMLNode])
        case mapping([(key: String, line: Int, value: YAMLNode)])
    }

    package let content: Content
    package let line: Int

    package var scalar: String? {
        if case .scalar(let text) = content { text } else { nil }
    }

    package var sequence: [YAMLNode]? {
        if case .sequence(let items) = content { items } else { nil }
    }

    package var mapping: [(key: String, line: Int, value: YAMLNode)]? {
        if case .mapping(let pairs) = content { pairs } else { nil }
    }

    package subscript(key: String) -> YAMLNode? { mapping?.first { $0.key == key }?.value }
}

extension YAMLNode {
    /// Reads the first document of `text`. Method: libyaml's document API; anchors are followed by libyaml itself.
    package static func parse(_ text: String, file: String) throws(PipelineError) -> YAMLNode {
        var parser = unsafe yaml_parser_t()
        guard unsafe yaml_parser_initialize(&parser) == 1 else {
            throw PipelineError(file: file, line: 1, field: "", problem: "out of memory", remedy: "free some memory")
        }
        defer { unsafe yaml_parser_delete(&parser) }
        let bytes = Array(text.utf8)
        let result: Result<YAMLNode, PipelineError> = unsafe bytes.withUnsafeBufferPointer { buffer in
            unsafe yaml_parser_set_input_string(&parser, buffer.baseAddress, buffer.count)
            var document = unsafe yaml_document_t()
            guard unsafe yaml_parser_load(&parser, &document) == 1 else {
                let problem = unsafe parser.problem.map { unsafe String(cString: $0) } ?? "not YAML"
                return unsafe .failure(
                    PipelineError(
                        file: file, line: Int(parser.problem_mark.line) + 1, field: "", problem: problem,
                        remedy: "check the indentation and the punctuation of this line"))
            }
            defer { unsafe yaml_document_delete(&document) }
            guard let root = unsafe yaml_document_get_root_node(&document) else {
                return .failure(
                    PipelineError(
                        file: file, line: 1, field: "", problem: "the file is empty",
                        remedy: "start from one of the sample pipelines"))
            }
            return unsafe .success(read(root, of: &document, depth: 0))
        }
        return try result.get()
    }

    private static func read(
        _ node: UnsafeMutablePointer<yaml_node_t>, of document: UnsafeMutablePointer<yaml_document_t>, depth: Int
    ) -> YAMLNode {
        let line = unsafe Int(node.pointee.start_mark.line) + 1
        // An alias can make a cycle: below this depth nothing of ours is written.
        guard depth < 32 else { return YAMLNode(content: .scalar(""), line: line) }
        func child(_ index: Int32) -> YAMLNode {
            guard let node = unsafe yaml_document_get_node(document, index) else {
                return YAMLNode(content: .scalar(""), line: line)
            }
            return unsafe read(node, of: document, depth: depth + 1)
        }
        switch unsafe node.pointee.type {
        case YAML_SEQUENCE_NODE:
            let items = unsafe node.pointee.data.sequence.items
            let count = unsafe items.start.map { unsafe items.top - $0 } ?? 0
            return YAMLNode(content: .sequence((0..<count).map { unsafe child(items.start[$0]) }), line: line)
        case YAML_MAPPING_NODE:
            let pairs = unsafe node.pointee.data.mapping.pairs
            let count = unsafe pairs.start.map { unsafe pairs.top - $0 } ?? 0
            return YAMLNode(
                content: .mapping(
                    (0..<count).map {
                        let key = unsafe child(pairs.start[$0].key)
                        return unsafe (key.scalar ?? "", key.line, child(pairs.start[$0].value))
                    }), line: line)
        default:
            let scalar = unsafe node.pointee.data.scalar
            let text = unsafe String(
                decoding: UnsafeBufferPointer(start: scalar.value, count: scalar.length), as: UTF8.self)
            return YAMLNode(content: .scalar(text), line: line)
        }
    }
}
