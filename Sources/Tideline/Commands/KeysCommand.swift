import Foundation
import Replicate

/// `tideline keys`: the pair of keys by which regions know the sealer's snapshots.
enum KeysCommand {
    static let privateName = "snapshot.key"
    static let publicName = "snapshot.pub"

    static let command = Command(
        name: "keys", summary: "Make the pair of keys that snapshots are signed and checked with.",
        discussion: """
            DIR/snapshot.key signs: give it to the sealer alone. Whoever has it can make regions load anything.
            DIR/snapshot.pub checks: give it to every region. Keys that are there are never overwritten.
            """,
        options: [CommandOption("--out", "DIR", help: "Where the two files go.")],
        examples: ["tideline keys --out .tideline/world/keys"],
        run: { try run($0) })

    static func run(_ arguments: ParsedArguments) throws -> Int32 {
        guard let folder = arguments.string("--out") else {
            throw UsageError("say where the keys go: tideline keys --out DIR")
        }
        let paths = (key: "\(folder)/\(privateName)", pub: "\(folder)/\(publicName)")
        for path in [paths.key, paths.pub] where FileManager.default.fileExists(atPath: path) {
            throw UsageError("\(path) is there already and is not overwritten; move it away, or take another --out")
        }
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        let key = try SigningKey()
        try key.save(to: paths.key)
        try key.savePublic(to: paths.pub)
        print(
            """
            key \(key.id)
            \(paths.key)  signs snapshots: the sealer's alone (mode 0600)
            \(paths.pub)  checks them: for every region, no secret
            """)
        return 0
    }
}
