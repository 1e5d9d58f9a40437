import Foundation
import Testing

private let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

@Suite struct HouseTests {
    @Test func everySourceKeepsTheRules() throws {
        let (files, findings) = try HouseRules.findings(root: root, folders: ["Sources", "Tests"])
        #expect(files > 100)
        #expect(findings.isEmpty, "\(findings.joined(separator: "\n"))")
    }

    @Test func theTableIsThePackages() throws {
        let manifest = try String(contentsOf: root.appending(path: "Package.swift"), encoding: .utf8)
        let declared = ImportTable.rooms(manifest: manifest)
        for name in Set(declared.keys).union(ImportTable.rooms.keys).sorted() {
            #expect(declared[name] == ImportTable.rooms[name], "Package.swift and the table differ in \(name)")
        }
    }

    @Test func theTableIsTheDocuments() throws {
        let file = root.appending(path: "docs/architecture.md")
        guard FileManager.default.fileExists(atPath: file.path) else { return }
        let modules = Set(ImportTable.rooms.keys).union(ImportTable.rooms.values.flatMap { $0 })
        let written = ImportTable.rooms(markdown: try String(contentsOf: file, encoding: .utf8), modules: modules)
        for (name, allowed) in ImportTable.rooms.sorted(by: { $0.key < $1.key }) {
            guard let row = written[name] else {
                Issue.record("docs/architecture.md has no row for \(name)")
                continue
            }
            if let row { #expect(row == allowed, "docs/architecture.md and the table differ in \(name)") }
        }
        for name in written.keys where !name.hasPrefix("C") || ImportTable.rooms[name] != nil {
            #expect(ImportTable.rooms[name] != nil, "docs/architecture.md has a row for \(name), which is no room")
        }
    }
}

/// A check that cannot fail is a defect: each rule is shown its violation.
@Suite struct HouseRulesTests {
    @Test(arguments: [
        ("let a = try! b()", "try!"),
        ("let a = b as! C", "as!"),
        ("nonisolated(unsafe) var a = 1", "nonisolated(unsafe)"),
        ("func a() { fatalError() }", "fatalError"),
        ("let a = \"\\(try! b(\"x\"))\"", "try!"),
        ("// TO" + "DO: later", "open end"),
        ("let a = 1  // FIX" + "ME", "open end"),
        ("final class A: @unchecked Sendable {}", "@unchecked Sendable"),
        ("/// Says nothing of it.\nfinal class A: @unchecked Sendable {}", "@unchecked Sendable"),
        ("// `@unchecked Sendable`: of another.\n\nfinal class A: @unchecked Sendable {}", "@unchecked Sendable"),
        (String(repeating: "\n", count: 501), "more than 500 lines"),
        ("import Edge", "Core may not import Edge"),
        ("internal import CRocksDB", "Core may not import CRocksDB"),
        ("@preconcurrency private import NATS", "Core may not import NATS"),
        ("@testable import struct Vectors.VectorTail", "Core may not import Vectors"),
        ("import Changes; import Edge", "Core may not import Edge"),
        ("import SomethingNobodyKnows", "Core may not import SomethingNobodyKnows"),
    ])
    func aViolationIsFound(text: String, finding: String) {
        let findings = HouseRules.findings(path: "Sources/Core/Planted.swift", text: text)
        #expect(findings.count == 1)
        #expect(findings.first?.contains(finding) == true)
    }

    @Test(arguments: [
        "let a = \"try! b as! c fatalError(\"",
        "// try! as! fatalError( and import Edge",
        "/* import Edge /* try! */ import Edge */ import Changes",
        "let a = #\"\\(\"try!\")\"#",
        "let a = \"\"\"\n    import Edge\n    \"\"\"",
        "/// `@unchecked Sendable`: guarded by the lock.\nfinal class A: @unchecked Sendable {}",
        "internal import Foundation\nimport Changes\npackage import Service",
        String(repeating: "\n", count: 500),
        "let a = tryout != basic",
    ])
    func whatIsAllowedIsNotFound(text: String) {
        #expect(HouseRules.findings(path: "Sources/Core/Planted.swift", text: text) == [])
    }

    @Test func aRoomOutsideTheTableIsFound() {
        #expect(HouseRules.findings(path: "Sources/Attic/A.swift", text: "").count == 1)
        #expect(HouseRules.findings(path: "Sources/Changes/A.swift", text: "import Foundation").count == 1)
    }

    @Test func aFilePlantedInACopyIsFound() throws {
        let copy = FileManager.default.temporaryDirectory.appending(path: "house-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: copy) }
        try FileManager.default.createDirectory(
            at: copy.appending(path: "Sources/Edge"), withIntermediateDirectories: true)
        try FileManager.default.copyItem(
            at: root.appending(path: "Sources/Storage"), to: copy.appending(path: "Sources/Storage"))
        #expect(try HouseRules.findings(root: copy, folders: ["Sources"]).findings == [])
        try "import Core\n".write(
            to: copy.appending(path: "Sources/Edge/Planted.swift"), atomically: true, encoding: .utf8)
        let findings = try HouseRules.findings(root: copy, folders: ["Sources"]).findings
        #expect(findings == ["Sources/Edge/Planted.swift:1: Edge may not import Core"])
    }

    @Test func theManifestIsRead() {
        let manifest = """
            func room(_ name: String, _ imports: [String]) -> Target { }
            room("A", []),
            room("B", ["A",
              "CZlib"]),
            .executableTarget(name: "Tideline", dependencies: ["A", "B"])
            """
        #expect(
            ImportTable.rooms(manifest: manifest) == ["A": [], "B": ["A", "CZlib"], "Tideline": ["A", "B"]])
    }

    @Test func theDocumentIsRead() throws {
        let markdown = """
            | Other | Table | Here |
            |---|---|---|
            | `Z` | no | Storage |

            | Target | Purpose | May import |
            |---|---|---|
            | `Changes` | records | standard library, `CZstd` |
            | `Tideline` | wires | all |
            """
        let rooms = ImportTable.rooms(markdown: markdown, modules: ["Changes", "CZstd", "Storage"])
        #expect(rooms.keys.sorted() == ["Changes", "Tideline"])
        #expect(try #require(rooms["Changes"]) == ["CZstd"])
        #expect(try #require(rooms["Tideline"]) == nil)
    }
}
