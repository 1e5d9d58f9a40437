import Foundation
import Replicate

/// `tideline snapshots`: what a region or the sealer holds, and which of it is served.
///
/// A running role owns its store. These commands read it beside the role, and leave their wish in one small file
/// (`pinned`), which the role follows.
enum SnapshotsCommand {
    static let list = command(
        "list", "List the snapshots that are kept, oldest first.",
        "Exit 1 where one of them cannot be read.", json: true, example: "--region eu", run: list)
    static let pin = command(
        "pin", "Serve one snapshot and no newer one.",
        "The region follows within seconds. A pinned snapshot is never removed.", arguments: ["N"], example: "42",
        run: pin)
    static let unpin = command(
        "unpin", "Serve the newest snapshot again.", "Ends what `pin` and `rollback` asked for.", example: "",
        run: unpin)
    static let rollback = command(
        "rollback", "Serve an earlier snapshot, by default the one before the current one.",
        "The same as to pin it: `tideline snapshots unpin` ends it.", arguments: ["[N]"], example: "--region eu",
        run: rollback)
    static let verify = command(
        "verify", "Hash every file of a snapshot again, by default of the current one.",
        "Reads all of its bytes. Exit 1 where a file is missing or not what was signed.", arguments: ["[N]"],
        example: "42 --region eu", run: verify)

    private static func command(
        _ name: String, _ summary: String, _ discussion: String, arguments: [String] = [], json: Bool = false,
        example: String, run: @escaping @Sendable (SnapshotStore, ParsedArguments) throws -> Int32
    ) -> Command {
        Command(
            name: "snapshots \(name)", summary: summary, discussion: discussion, arguments: arguments,
            options: [
                CommandOption("--dir", "DIR", default: ".tideline/world", help: "The world's folder."),
                CommandOption("--region", "NAME", default: "eu", help: "The region whose snapshots are meant."),
                CommandOption("--sealer", help: "The sealer's snapshots, not a region's."),
                CommandOption(
                    "--trust", "FILE",
                    help: "Public key that snapshots are checked with; may be repeated. [DIR/keys/snapshot.pub]"),
            ] + (json ? [CommandOption("--json", help: "Print JSON.")] : []),
            examples: ["tideline snapshots \(name)\(example.isEmpty ? "" : " ")\(example)"],
            run: { arguments in
                do {
                    return try run(try store(arguments), arguments)
                } catch let refusal as SnapshotRefusal {
                    // One line, with what to do about it.
                    throw SnapshotsError(refusal)
                }
            })
    }

    static func store(_ arguments: ParsedArguments) throws -> SnapshotStore {
        let dir = arguments.string("--dir") ?? ""
        let place = arguments.flag("--sealer") ? "sealer" : "edge-\(arguments.string("--region") ?? "")"
        let path = "\(dir)/\(place)/snapshots"
        guard FileManager.default.fileExists(atPath: "\(path)/manifests") else {
            throw UsageError(
                "no snapshots in \(path): give the world's --dir, and --region NAME or --sealer; a new world makes its "
                    + "first snapshot after a while")
        }
        var trusted = arguments.strings("--trust")
        if trusted.isEmpty { trusted = ["\(dir)/keys/\(KeysCommand.publicName)"] }
        for file in trusted where !FileManager.default.fileExists(atPath: file) {
            throw UsageError("no public key at \(file): name the one that the region trusts with --trust FILE")
        }
        return try SnapshotStore(
            path: path, trusting: try TrustedKeys(paths: trusted),
            holding: arguments.flag("--sealer") ? .all : .segments, mode: .reading)
    }

    static func number(_ arguments: ParsedArguments) throws -> UInt64? {
        guard let text = arguments.positional.first else { return nil }
        guard let number = UInt64(text), number > 0 else {
            throw UsageError("N is a snapshot's number, such as 42, not `\(text)`; see `tideline snapshots list`")
        }
        return number
    }

    private static func pin(_ store: SnapshotStore, _ arguments: ParsedArguments) throws -> Int32 {
        guard let number = try number(arguments) else { throw UsageError("which one? tideline snapshots pin N") }
        try store.pin(number)
        print("pinned snapshot \(number); `tideline snapshots unpin` ends it")
        return 0
    }

    private static func unpin(_ store: SnapshotStore, _ arguments: ParsedArguments) throws -> Int32 {
        print(try store.unpin() ? "unpinned: the newest snapshot is served again" : "nothing was pinned")
        return 0
    }

    private static func rollback(_ store: SnapshotStore, _ arguments: ParsedArguments) throws -> Int32 {
        let number = try number(arguments) ?? previous(store)
        if let current = try store.current, current.manifest.number <= number {
            throw UsageError(
                "snapshot \(number) is not before the current one (\(current.manifest.number)); to serve it: "
                    + "tideline snapshots pin \(number)")
        }
        try store.pin(number)
        print("rolled back to snapshot \(number), and pinned it; `tideline snapshots unpin` ends it")
        return 0
    }

    private static func previous(_ store: SnapshotStore) throws -> UInt64 {
        guard let current = try store.current else { throw UsageError("no snapshot is served yet") }
        let earlier = try store.manifests.filter {
            $0.name.lineage == current.name.lineage && $0.name.number < current.name.number
        }
        guard let last = earlier.last else {
            throw UsageError("no snapshot before \(current.manifest.number) is kept; see `tideline snapshots list`")
        }
        return last.manifest.number
    }

    private static func verify(_ store: SnapshotStore, _ arguments: ParsedArguments) throws -> Int32 {
        let number = try number(arguments)
        guard let signed = try number.map({ try store.manifest(number: $0) }) ?? store.current else {
            throw UsageError("no snapshot is served yet; name one: tideline snapshots verify N")
        }
        do {
            try store.verify(signed)
        } catch let refusal as SnapshotRefusal where refusal.reason == .damaged {
            print("snapshot \(signed.manifest.number) is damaged: \(refusal.detail)")
            return 1
        }
        let manifest = signed.manifest
        print(
            "snapshot \(manifest.number) holds: signed by \(signed.keyId), \(manifest.files(store.parts).count) files, "
                + "\(manifest.bytes(of: store.parts)) bytes")
        return 0
    }
}

/// A refusal, and what to do about it.
struct SnapshotsError: Error, CustomStringConvertible {
    let description: String

    init(_ refusal: SnapshotRefusal) {
        let remedy =
            switch refusal.reason {
            case .unavailable: "`tideline snapshots list` shows what is here"
            case .signature: "name the public key of the sealer that made it with --trust FILE"
            case .damaged:
                "`tideline snapshots list` shows the others, `tideline snapshots rollback N` serves one of them"
            default: "`tideline snapshots list` shows the others"
            }
        description = "\(refusal.detail); \(remedy)"
    }
}
