/// Who may import whom. It is said three times: here, in Package.swift, and in docs/architecture.md; the tests hold the
/// three together, and the sources to them.
enum ImportTable {
    static let rooms: [String: Set<String>] = [
        "Service": [],
        "Changes": ["CChecksum", "CLZ4", "CZstd"],
        "Storage": ["Changes", "CRocksDB"],
        "Vectors": ["Changes", "CChecksum", "CFaiss", "CVectors"],
        "Features": ["Changes", "Storage", "CJSON", "CWindows", "CYAML"],
        "Scoring": ["Changes", "Features", "CForest"],
        "HTTP": ["CMicroHTTPD", "CCurl"],
        "Core": ["Service", "Changes", "Storage", "Features", "Scoring", "HTTP"],
        "Transactions": ["Service", "Changes", "Core"],
        "Kafka": ["Service", "Changes", "Storage", "Core", "Transactions", "CRdkafka", "CSpinGuard"],
        "Replicate": ["Service", "Changes", "Storage", "COpenSSL"],
        "NATS": ["Service", "Changes", "Replicate", "CNATS"],
        "Edge": ["Service", "Changes", "Storage", "Vectors", "Features", "Scoring", "Replicate", "HTTP"],
        "Simulation": ["Service", "Changes", "Storage", "Features", "Core", "Transactions", "Replicate", "Edge"],
        "Tideline": [
            "Service", "Changes", "Storage", "Vectors", "Features", "Scoring", "HTTP", "Core", "Kafka",
            "Replicate", "NATS", "Edge", "Simulation", "CProcess", "CZlib",
        ],
    ]

    /// Swift's own libraries, free to all. Records and codec do without Foundation.
    static func isFree(_ module: String, to room: String) -> Bool {
        switch module {
        case "Foundation", "Dispatch": room != "Changes"
        case "Swift", "Synchronization", "Glibc": true
        default: false
        }
    }

    /// The rooms of a manifest: `room("Name", ["A", "B"])`, and the command line's target.
    static func rooms(manifest: String) -> [String: Set<String>] {
        var found: [String: Set<String>] = [:]
        for match in manifest.matches(of: /room\(\s*"(\w+)",\s*\[([^\]]*)\]/) {
            found[String(match.1)] = names(match.2)
        }
        if let match = manifest.firstMatch(of: /name:\s*"Tideline",\s*dependencies:\s*\[([^\]]*)\]/) {
            found["Tideline"] = names(match.1)
        }
        return found
    }

    /// The rows of `| Target | Purpose | May import |`; `nil` for a row that says `all`. Words that are no module of
    /// ours ("standard library") say nothing.
    static func rooms(markdown: String, modules: Set<String>) -> [String: Set<String>?] {
        var found: [String: Set<String>?] = [:]
        var isInside = false
        for line in markdown.split(separator: "\n", omittingEmptySubsequences: false) {
            let cells = line.split(separator: "|", omittingEmptySubsequences: false).dropFirst().dropLast().map {
                $0.filter { $0 != "`" }.trimming(" ")
            }
            if cells.count != 3 { isInside = false }
            if cells == ["Target", "Purpose", "May import"] {
                isInside = true
            } else if isInside, let name = cells.first, name.first?.isLetter == true {
                let words = Set(cells[2].matches(of: /\w+/).map { String($0.output) })
                found.updateValue(words.contains("all") ? nil : words.intersection(modules), forKey: name)
            }
        }
        return found
    }

    private static func names(_ list: Substring) -> Set<String> {
        Set(list.matches(of: /"(\w+)"/).map { String($0.1) })
    }
}

extension String {
    fileprivate func trimming(_ character: Character) -> String {
        var rest = self[...]
        while rest.first == character { rest.removeFirst() }
        while rest.last == character { rest.removeLast() }
        return String(rest)
    }
}
