/// The `features` section: each item names one kind of feature and becomes one or more columns of the row.
extension PipelineReader {
    mutating func readFeatures(_ root: YAMLNode) throws(PipelineError) {
        guard let node = root["features"], let items = node.sequence, !items.isEmpty else {
            throw error(
                root["features"] ?? root, "features", "at least one feature is needed", "such as `- value: amount`")
        }
        for (index, item) in items.enumerated() {
            let field = "features[\(index)]"
            guard let pairs = item.mapping, pairs.count == 1 else {
                throw error(item, field, "one kind of feature an item", "such as `- value: amount`")
            }
            let value = pairs[0].value
            let path = "\(field).\(pairs[0].key)"
            switch pairs[0].key {
            case "value":
                for name in try names(value, path) { add(.value(column: try number(name, value, path)), name) }
            case "log":
                for name in try names(value, path) { add(.log(column: try number(name, value, path)), "log(\(name))") }
            case "clock": try readClock(value, path)
            case "since_last":
                for name in try names(value, path) {
                    add(.sinceLast(entity: try entity(name, value, path)), "\(name).since_last")
                }
            case "windows": try readWindows(value, path)
            case "ratio": try readRatio(value, path)
            default:
                throw error(item, path, "unknown kind of feature", "value, log, clock, since_last, windows or ratio")
            }
        }
        var seen: Set<String> = []
        for name in featureNames where !seen.insert(name).inserted {
            throw error(node, "features", "`\(name)` is made twice", "remove one of the two")
        }
        guard features.count <= 1024 else { throw error(node, "features", "too many features", "1,024 are the most") }
    }

    private mutating func add(_ feature: Pipeline.Feature, _ name: String) {
        features.append(feature)
        featureNames.append(name)
    }

    /// One name or a list of them.
    private func names(_ node: YAMLNode, _ field: String) throws(PipelineError) -> [String] {
        if let one = node.scalar, !one.isEmpty { return [one] }
        guard let items = node.sequence, !items.isEmpty else {
            throw error(node, field, "a name or a list of names is needed", "such as `amount` or `[amount, fee]`")
        }
        var result: [String] = []
        for item in items { result.append(try text(item, field)) }
        return result
    }

    private func number(_ name: String, _ node: YAMLNode, _ field: String) throws(PipelineError) -> Int {
        guard let index = columns.firstIndex(where: { $0.name == name && $0.type == .number }) else {
            let known = columns.filter { $0.type == .number }.map(\.name).joined(separator: ", ")
            throw error(node, field, "`\(name)` is no field of type number", "known: \(known)")
        }
        return index
    }

    private func entity(_ name: String, _ node: YAMLNode, _ field: String) throws(PipelineError) -> Int {
        guard let index = drafts.firstIndex(where: { $0.name == name }) else {
            throw error(node, field, "`\(name)` is no entity", "known: \(drafts.map(\.name).joined(separator: ", "))")
        }
        return index
    }

    private mutating func readClock(_ node: YAMLNode, _ field: String) throws(PipelineError) {
        for name in try names(node, field) {
            guard let clock = Pipeline.Clock(rawValue: name) else {
                let known = Pipeline.Clock.allCases.map(\.rawValue).joined(separator: ", ")
                throw error(node, field, "`\(name)` is unknown", "known: \(known), each in UTC")
            }
            add(.clock(clock), "clock.\(name)")
        }
    }

    private mutating func readWindows(_ node: YAMLNode, _ field: String) throws(PipelineError) {
        try check(node, field, keys: ["entity", "of", "distinct", "over", "compute"])
        guard let entityNode = node["entity"], let overNode = node["over"] else {
            throw error(
                node, field, "entity and over are needed",
                "such as `{entity: customer, of: amount, over: [1h, 24h], compute: [count, mean]}`")
        }
        let entityName = try text(entityNode, "\(field).entity")
        let entity = try entity(entityName, entityNode, "\(field).entity")
        if let distinctNode = node["distinct"] {
            let name = try text(distinctNode, "\(field).distinct")
            guard let column = columns.firstIndex(where: { $0.name == name && $0.type == .text }),
                column > Pipeline.timeColumn, column != drafts[entity].column
            else {
                throw error(
                    distinctNode, "\(field).distinct", "`\(name)` is no other entity or text field",
                    "name one whose values are counted")
            }
            let distinct = slot(column, in: &drafts[entity].distincts)
            guard distinct < 4 else {
                throw error(distinctNode, field, "too many distinct columns", "four an entity are the most")
            }
            for span in overNode.sequence ?? [overNode] {
                let window = try window(span, "\(field).over", entity: entity, sketches: true)
                let label = drafts[entity].windows[window].label
                add(
                    .distinct(entity: entity, window: window, distinct: distinct),
                    "\(entityName).\(name).distinct.\(label)")
            }
            return
        }
        var measure = -1
        var prefix = entityName
        if let of = node["of"] {
            let name = try text(of, "\(field).of")
            measure = slot(try number(name, of, "\(field).of"), in: &drafts[entity].measures)
            guard measure < 8 else { throw error(of, field, "too many measures", "eight an entity are the most") }
            prefix += ".\(name)"
        }
        guard let computeNode = node["compute"] else {
            throw error(node, "\(field).compute", "missing", "a list of count, sum, mean, max, min, stddev")
        }
        for span in overNode.sequence ?? [overNode] {
            let window = try window(span, "\(field).over", entity: entity, sketches: false)
            for name in try names(computeNode, "\(field).compute") {
                guard let statistic = Pipeline.Statistic(rawValue: name) else {
                    throw error(
                        computeNode, "\(field).compute", "`\(name)` is unknown", "count, sum, mean, max, min or stddev")
                }
                guard measure >= 0 || statistic == .count else {
                    throw error(computeNode, "\(field).compute", "`\(name)` of what?", "add `of: FIELD`")
                }
                let label = drafts[entity].windows[window].label
                add(
                    .window(entity: entity, window: window, measure: measure, statistic: statistic),
                    "\(statistic == .count ? entityName : prefix).\(name).\(label)")
            }
        }
    }

    private mutating func readRatio(_ node: YAMLNode, _ field: String) throws(PipelineError) {
        try check(node, field, keys: ["entity", "of", "over"])
        guard let entityNode = node["entity"], let of = node["of"], let over = node["over"] else {
            throw error(
                node, field, "entity, of and over are needed", "such as `{entity: customer, of: amount, over: 30d}`")
        }
        let entityName = try text(entityNode, "\(field).entity")
        let entity = try entity(entityName, entityNode, "\(field).entity")
        let name = try text(of, "\(field).of")
        let column = try number(name, of, "\(field).of")
        let measure = slot(column, in: &drafts[entity].measures)
        for span in over.sequence ?? [over] {
            let window = try window(span, "\(field).over", entity: entity, sketches: false)
            let label = drafts[entity].windows[window].label
            add(
                .ratio(entity: entity, window: window, measure: measure, column: column),
                "\(entityName).\(name).ratio.\(label)")
        }
    }

    private func slot(_ column: Int, in list: inout [Int]) -> Int {
        if let index = list.firstIndex(of: column) { return index }
        list.append(column)
        return list.count - 1
    }

    /// A window's level and length: its old end snaps to a tile's edge, at most a fifth of the window away.
    private mutating func window(
        _ node: YAMLNode, _ field: String, entity: Int, sketches: Bool
    ) throws(PipelineError) -> Int {
        let length = try duration(node, field)
        for level in TileLevel.all {
            let tiles = Int(length / level.width)
            guard Int64(tiles) * level.width == length, tiles >= 5, tiles < level.slots else { continue }
            if let index = drafts[entity].windows.firstIndex(where: { $0.level == level.index && $0.tiles == tiles }) {
                drafts[entity].windows[index].sketches = drafts[entity].windows[index].sketches || sketches
                return index
            }
            drafts[entity].windows.append(
                .init(level: level.index, tiles: tiles, sketches: sketches, label: try text(node, field)))
            return drafts[entity].windows.count - 1
        }
        throw error(
            node, field, "`\(node.scalar ?? "")` cannot be made of tiles",
            "5m to 60m in whole minutes, 5h to 31h in whole hours, or 5d to 31d in whole days")
    }
}
