import Foundation

/// What a source of ours must not do. A finding says where, what and, where it helps, what instead.
enum HouseRules {
    static let linesMax = 500
    /// Files that may be longer for now. Empty is the goal.
    static let longFiles: Set<String> = []

    /// Findings in one file, whose path is relative to the repository.
    static func findings(path: String, text: String) -> [String] {
        let source = SourceText(text)
        var findings: [String] = []
        func find(_ line: Int, _ what: String) { findings.append("\(path):\(line): \(what)") }

        for (index, line) in source.code.enumerated() {
            if line.contains(/\btry!/) { find(index + 1, "try!: handle the error") }
            if line.contains(/\bas!/) { find(index + 1, "as!: use as? and handle nil") }
            if line.contains(/nonisolated\s*\(\s*unsafe\s*\)/) { find(index + 1, "nonisolated(unsafe)") }
            if line.contains(/\bfatalError\s*\(/) { find(index + 1, "fatalError: throw, or state the precondition") }
            if line.contains(/@unchecked\s+Sendable/),
                !source.comment(above: index).contains("@unchecked Sendable")
            {
                find(index + 1, "@unchecked Sendable without a comment above that gives its reason")
            }
        }
        for (index, line) in source.lines.enumerated() where line.contains(/\b(?:TO[D]O|FIX[M]E)\b/) {
            find(index + 1, "an open end: do it, or write it into the plan")
        }
        if source.lines.count - 1 > linesMax, !longFiles.contains(path) {
            find(linesMax, "more than \(linesMax) lines: a file holds one idea")
        }
        return findings + importFindings(path: path, source)
    }

    private static func importFindings(path: String, _ source: SourceText) -> [String] {
        let parts = path.split(separator: "/")
        guard parts.count > 2, parts[0] == "Sources", parts[1] != "C" else { return [] }
        let room = String(parts[1])
        guard let allowed = ImportTable.rooms[room] else { return ["\(path): no room `\(room)` in the import table"] }
        return source.imports.filter { !allowed.contains($0.module) && !ImportTable.isFree($0.module, to: room) }
            .map { "\(path):\($0.line): \(room) may not import \($0.module)" }
    }

    /// Findings in every Swift file below the folders, and how many files were read.
    static func findings(root: URL, folders: [String]) throws -> (files: Int, findings: [String]) {
        var files = 0
        var findings: [String] = []
        for folder in folders {
            let enumerator = FileManager.default.enumerator(atPath: root.appending(path: folder).path)
            while let name = enumerator?.nextObject() as? String {
                guard name.hasSuffix(".swift") else { continue }
                let path = "\(folder)/\(name)"
                let text = try String(contentsOf: root.appending(path: path), encoding: .utf8)
                findings += self.findings(path: path, text: text)
                files += 1
            }
        }
        return (files, findings.sorted())
    }
}
