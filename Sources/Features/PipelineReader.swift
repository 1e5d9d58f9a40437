internal import Foundation

extension Pipeline {
    /// Reads and checks a pipeline file.
    package init(path: String) throws {
        let text: String
        do {
            text = try String(contentsOfFile: path, encoding: .utf8)
        } catch {
            throw PipelineError(
                file: path, line: 0, field: "", problem: "cannot be read: \(error.localizedDescription)",
                remedy: "check the path and that the file is UTF-8")
        }
        try self.init(text: text, file: path)
    }

    package init(text: String, file: String) throws(PipelineError) {
        let root = try YAMLNode.parse(text, file: file)
        var reader = PipelineReader(file: file)
        self = try reader.pipeline(root)
    }
}

/// Turns the YAML tree into a pipeline; every check says file, line, field and remedy.
struct PipelineReader {
    let file: String
    var columns: [Pipeline.Column] = []
    var kept: [Int] = []
    var drafts: [EntityDraft] = []
    var features: [Pipeline.Feature] = []
    var featureNames: [String] = []

    /// An entity while features still add to what its tiles hold.
    struct EntityDraft {
        var name: String
        var column: Int
        var shared: Bool
        var measures: [Int] = []
        var distincts: [Int] = []
        var windows: [Pipeline.Window] = []
    }

    init(file: String) { self.file = file }

    func error(_ node: YAMLNode, _ field: String, _ problem: String, _ remedy: String) -> PipelineError {
        PipelineError(file: file, line: node.line, field: field, problem: problem, remedy: remedy)
    }

    /// The mapping's value, with its keys checked against those that are known.
    func check(_ node: YAMLNode, _ field: String, keys: [String]) throws(PipelineError) {
        guard let pairs = node.mapping else {
            throw error(node, field, "a mapping is needed here", "write `key: value` lines below it")
        }
        var seen: Set<String> = []
        for pair in pairs {
            let path = field.isEmpty ? pair.key : "\(field).\(pair.key)"
            guard keys.contains(pair.key) else {
                throw PipelineError(
                    file: file, line: pair.line, field: path, problem: "unknown key",
                    remedy: "known here: \(keys.joined(separator: ", "))")
            }
            guard seen.insert(pair.key).inserted else {
                throw PipelineError(
                    file: file, line: pair.line, field: path, problem: "repeated key", remedy: "keep one of them")
            }
        }
    }

    func text(_ node: YAMLNode, _ field: String) throws(PipelineError) -> String {
        guard let text = node.scalar, !text.isEmpty else {
            throw error(node, field, "a text is needed here", "write a single value")
        }
        return text
    }

    func integer(_ node: YAMLNode, _ field: String, in range: ClosedRange<Int>) throws(PipelineError) -> Int {
        guard let value = Int(try text(node, field).replacing("_", with: "")), range.contains(value) else {
            throw error(node, field, "a whole number is needed here", "from \(range.lowerBound) to \(range.upperBound)")
        }
        return value
    }

    /// A duration such as `10ms`, `5m`, `24h` or `30d`, in microseconds.
    func duration(_ node: YAMLNode, _ field: String) throws(PipelineError) -> Int64 {
        let text = try text(node, field)
        let units: [(String, Int64)] = [
            ("us", 1), ("ms", 1000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000),
        ]
        for (suffix, unit) in units where text.hasSuffix(suffix) {
            if let number = Int64(text.dropLast(suffix.count)), number > 0, number < 1_000_000 { return number * unit }
        }
        throw error(
            node, field, "`\(text)` is not a duration", "write a whole number and us, ms, s, m, h or d: 10ms, 24h")
    }

    mutating func pipeline(_ root: YAMLNode) throws(PipelineError) -> Pipeline {
        try check(
            root, "",
            keys: [
                "pipeline", "schema", "event", "tenants", "entities", "fields", "features", "score", "embedding",
                "limits",
                "kafka",
            ])
        guard let nameNode = root["pipeline"] else {
            throw error(root, "pipeline", "missing", "name the pipeline: `pipeline: cards`")
        }
        let name = try text(nameNode, "pipeline")
        guard name.utf8.count <= 32, name.utf8.allSatisfy({ isNameByte($0) }) else {
            throw error(nameNode, "pipeline", "`\(name)` is no name", "use up to 32 letters, digits, - and _")
        }
        let (assumeUTC, tenantColumn) = try readEvent(root)
        try readEntities(root)
        try readFields(root)
        let embedding = try readEmbedding(root)
        try checkPaths(root)
        let tenants = try readTenants(root, tenantColumn: tenantColumn)
        try readFeatures(root)
        let score = try readScore(root)
        return Pipeline(
            name: name,
            schema: UInt32(
                try root["schema"].map { (node) throws(PipelineError) in
                    try integer(node, "schema", in: 1...1_000_000)
                } ?? 1),
            file: file, assumeUTC: assumeUTC, columns: columns, tenantColumn: tenantColumn, tenants: tenants,
            entities: drafts.map {
                Pipeline.Entity(
                    name: $0.name, column: $0.column, shared: $0.shared, measures: $0.measures,
                    distincts: $0.distincts, windows: $0.windows)
            },
            kept: kept, features: features, featureNames: featureNames, embedding: embedding, model: score.model,
            threshold: score.threshold, reasonsMax: score.reasons, limits: try readLimits(root),
            kafka: try readKafka(root))
    }

    func isNameByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
            true
        default: false
        }
    }

    private mutating func readEvent(_ root: YAMLNode) throws(PipelineError) -> (Bool, Int?) {
        guard let event = root["event"] else {
            throw error(
                root, "event", "missing", "say where id and time are: `event: {id: id, time: {path: time, unit: ms}}`")
        }
        try check(event, "event", keys: ["id", "time", "tenant", "assume_utc"])
        guard let id = event["id"] else {
            throw error(event, "event.id", "missing", "name the field that holds the event's id")
        }
        columns.append(.init(name: "id", path: try text(id, "event.id"), type: .text, required: true))
        guard let time = event["time"] else {
            throw error(event, "event.time", "missing", "name the field and its unit: `time: {path: time, unit: ms}`")
        }
        try check(time, "event.time", keys: ["path", "unit"])
        guard let path = time["path"], let unitNode = time["unit"] else {
            throw error(
                time, "event.time", "path and unit are both needed",
                "a unit is never guessed: one of rfc3339, s, ms, us, ns")
        }
        guard let unit = Pipeline.TimeUnit(rawValue: try text(unitNode, "event.time.unit")) else {
            throw error(unitNode, "event.time.unit", "unknown unit", "one of rfc3339, s, ms, us, ns")
        }
        columns.append(.init(name: "time", path: try text(path, "event.time.path"), type: .time(unit), required: true))
        var tenantColumn: Int?
        if let tenant = event["tenant"] {
            tenantColumn = columns.count
            columns.append(.init(name: "tenant", path: try text(tenant, "event.tenant"), type: .text, required: true))
        }
        return (event["assume_utc"]?.scalar == "true", tenantColumn)
    }

    private mutating func readEntities(_ root: YAMLNode) throws(PipelineError) {
        guard let entities = root["entities"], let pairs = entities.mapping, !pairs.isEmpty else {
            throw error(
                root["entities"] ?? root, "entities", "at least one entity is needed",
                "such as `entities: {customer: {path: customer_id}}`; the first is the primary one")
        }
        for (index, pair) in pairs.enumerated() {
            let field = "entities.\(pair.key)"
            try check(pair.value, field, keys: ["path", "shared"])
            guard let path = pair.value["path"] else {
                throw error(pair.value, field, "path is missing", "name the field that holds its id")
            }
            let shared = pair.value["shared"]?.scalar == "true"
            guard shared == (index > 0) else {
                throw error(
                    pair.value, "\(field).shared",
                    index == 0 ? "the primary entity is not shared" : "an entity beside the primary one is shared",
                    index == 0 ? "remove `shared`" : "write `shared: true`")
            }
            guard drafts.count < 4 else { throw error(pair.value, field, "too many entities", "four are the most") }
            drafts.append(EntityDraft(name: pair.key, column: columns.count, shared: shared))
            kept.append(columns.count)
            columns.append(
                .init(name: pair.key, path: try text(path, "\(field).path"), type: .text, required: index == 0))
        }
    }

    private mutating func readFields(_ root: YAMLNode) throws(PipelineError) {
        guard let fields = root["fields"] else { return }
        guard let pairs = fields.mapping else {
            throw error(fields, "fields", "a mapping is needed here", "write `amount: {type: number}`")
        }
        for pair in pairs {
            let field = "fields.\(pair.key)"
            try check(pair.value, field, keys: ["path", "type", "required"])
            guard !columns.contains(where: { $0.name == pair.key }) else {
                throw error(
                    pair.value, field, "the name is taken", "entities, fields, id, time and tenant share their names")
            }
            let type: Pipeline.ColumnType
            switch pair.value["type"]?.scalar {
            case "number": type = .number
            case "text": type = .text
            default: throw error(pair.value, "\(field).type", "missing or unknown", "number or text")
            }
            kept.append(columns.count)
            columns.append(
                .init(
                    name: pair.key, path: pair.value["path"]?.scalar ?? pair.key, type: type,
                    required: pair.value["required"]?.scalar == "true"))
        }
    }

    /// A path feeds one column, and none lies within another's.
    private func checkPaths(_ root: YAMLNode) throws(PipelineError) {
        guard columns.count <= 256 else { throw error(root, "fields", "too many fields", "256 columns are the most") }
        for (index, column) in columns.enumerated() {
            let names = column.path.split(separator: ".", omittingEmptySubsequences: false)
            guard !names.contains(where: \.isEmpty) else {
                throw error(
                    root, column.name, "the path `\(column.path)` has an empty name", "join names by single dots")
            }
            for other in columns[..<index] {
                let others = other.path.split(separator: ".")
                if names.starts(with: others) || others.starts(with: names) {
                    throw error(
                        root, column.name, "the path `\(column.path)` is read for `\(other.name)` already",
                        "each path feeds one column, and none lies within another's")
                }
            }
        }
    }

    private func readTenants(_ root: YAMLNode, tenantColumn: Int?) throws(PipelineError) -> [String] {
        guard let node = root["tenants"] else {
            guard tenantColumn == nil else {
                throw error(
                    root, "tenants", "missing though event.tenant is given", "list them: `tenants: [acme, globex]`")
            }
            return ["default"]
        }
        guard let items = node.sequence, !items.isEmpty, items.count <= 1000 else {
            throw error(node, "tenants", "a list of names is needed", "such as `tenants: [acme, globex]`")
        }
        var names: [String] = []
        for item in items {
            let name = try text(item, "tenants")
            guard name.utf8.count <= Pipeline.tenantBytesMax, !names.contains(name) else {
                throw error(
                    item, "tenants", "`\(name)` is too long or repeated",
                    "up to \(Pipeline.tenantBytesMax) bytes, each once")
            }
            names.append(name)
        }
        guard tenantColumn != nil || names.count == 1 else {
            throw error(
                node, "tenants", "several tenants, but event.tenant does not say whose an event is",
                "add `tenant: FIELD` to event")
        }
        return names
    }

    private func readScore(_ root: YAMLNode) throws(PipelineError) -> (model: String?, threshold: Float, reasons: Int) {
        guard let score = root["score"] else { return (nil, 0.5, 0) }
        try check(score, "score", keys: ["model", "threshold", "reasons"])
        var model = try score["model"].map { (node) throws(PipelineError) in try text(node, "score.model") }
        if let relative = model, !relative.hasPrefix("/") {
            let folder = file.contains("/") ? String(file[..<file.lastIndex(of: "/")!]) : "."
            model = "\(folder)/\(relative)"
        }
        var threshold: Float = 0.5
        if let node = score["threshold"] {
            guard let value = Float(try text(node, "score.threshold")), value.isFinite else {
                throw error(node, "score.threshold", "a number is needed here", "scores above it are flagged: 0.5")
            }
            threshold = value
        }
        let reasons = try score["reasons"].map { (node) throws(PipelineError) in
            try integer(node, "score.reasons", in: 0...16)
        }
        return (model, threshold, reasons ?? 3)
    }

    private func readLimits(_ root: YAMLNode) throws(PipelineError) -> Pipeline.Limits {
        var limits = Pipeline.Limits()
        guard let node = root["limits"] else { return limits }
        try check(
            node, "limits",
            keys: [
                "latency_budget", "event_bytes", "future", "duplicate_ids", "duplicate_window", "entities_in_memory",
                "tail_vectors", "retention",
            ])
        if let value = node["latency_budget"] {
            limits.latencyBudgetMicroseconds = Int(try duration(value, "limits.latency_budget"))
        }
        if let value = node["event_bytes"] {
            limits.eventBytesMax = try integer(value, "limits.event_bytes", in: 64...(1 << 20))
        }
        if let value = node["future"] { limits.futureMicroseconds = try duration(value, "limits.future") }
        if let value = node["duplicate_ids"] {
            limits.duplicateIdsMax = try integer(value, "limits.duplicate_ids", in: 1...100_000_000)
        }
        if let value = node["duplicate_window"] {
            limits.duplicateWindowMicroseconds = try duration(value, "limits.duplicate_window")
        }
        if let value = node["entities_in_memory"] {
            limits.entitiesInMemoryMax = try integer(value, "limits.entities_in_memory", in: 1000...100_000_000)
        }
        if let value = node["tail_vectors"] {
            limits.tailVectorsMax = try integer(value, "limits.tail_vectors", in: 1000...100_000_000)
        }
        if let value = node["retention"] { limits.retentionMicroseconds = try duration(value, "limits.retention") }
        return limits
    }
}

extension PipelineReader {
    fileprivate mutating func readEmbedding(_ root: YAMLNode) throws(PipelineError) -> Pipeline.Embedding {
        var embedding = Pipeline.Embedding()
        guard let node = root["embedding"] else { return embedding }
        try check(node, "embedding", keys: ["field", "dimension", "metric"])
        if let value = node["metric"] {
            let known = Pipeline.Embedding.Metric.allCases.map(\.rawValue)
            guard let metric = Pipeline.Embedding.Metric(rawValue: try text(value, "embedding.metric")) else {
                throw error(value, "embedding.metric", "unknown metric", "one of \(known.joined(separator: ", "))")
            }
            embedding.metric = metric
        }
        guard (node["field"] == nil) == (node["dimension"] == nil) else {
            throw error(
                node, "embedding", "field and dimension go together",
                "`{ field: vector, dimension: 384 }` for vectors that events bring, neither for the model's own")
        }
        if let path = node["field"], let dimension = node["dimension"] {
            embedding.dimension = try integer(dimension, "embedding.dimension", in: 2...Pipeline.dimensionMax)
            embedding.column = columns.count
            columns.append(
                .init(
                    name: "embedding", path: try text(path, "embedding.field"),
                    type: .vector(dimension: embedding.dimension), required: false))
        }
        return embedding
    }

    /// Any property of the client: the client itself says what is wrong with one.
    fileprivate func readKafka(_ root: YAMLNode) throws(PipelineError) -> [String: Pipeline.Setting] {
        guard let node = root["kafka"] else { return [:] }
        guard let pairs = node.mapping else {
            throw error(node, "kafka", "not a mapping", "write one property a line: `bootstrap.servers: host:9092`")
        }
        var settings: [String: Pipeline.Setting] = [:]
        for pair in pairs {
            let field = "kafka.\(pair.key)"
            guard pair.value.mapping != nil else {
                settings[pair.key] = .text(try text(pair.value, field))
                continue
            }
            try check(pair.value, field, keys: ["env", "file"])
            if let name = pair.value["env"] {
                settings[pair.key] = .environment(try text(name, "\(field).env"))
            } else if let path = pair.value["file"] {
                settings[pair.key] = .file(try text(path, "\(field).file"))
            }
        }
        return settings
    }
}
