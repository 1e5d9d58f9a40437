import Foundation
import Replicate

extension SnapshotsCommand {
    static func list(_ store: SnapshotStore, _ arguments: ParsedArguments) throws -> Int32 {
        let (sound, damaged) = try store.inventory()
        let current = try store.currentName
        let pinned = try store.pinnedName
        if arguments.flag("--json") {
            print(try json(sound, damaged, store.parts, current: current, pinned: pinned))
        } else {
            if sound.isEmpty, damaged.isEmpty { print("no snapshots yet") }
            for signed in sound {
                print(line(signed, store.parts, isCurrent: signed.name == current, isPinned: signed.name == pinned))
            }
            for (name, refusal) in damaged { print("\(name.number)  cannot be read: \(refusal.detail)") }
            if let pinned, !sound.contains(where: { $0.name == pinned }) {
                print("pinned is snapshot \(pinned.number), which is not here; `tideline snapshots unpin` ends it")
            }
        }
        return damaged.isEmpty ? 0 : 1
    }

    private static func line(_ signed: SignedManifest, _ parts: SnapshotParts, isCurrent: Bool, isPinned: Bool)
        -> String
    {
        let manifest = signed.manifest
        let marks = (isCurrent ? "  current" : "") + (isPinned ? "  pinned" : "")
        let rows = manifest.segments.reduce(0) { $0 + $1.rows }
        let columns = [
            "\(manifest.number)", time(manifest.createdAt),
            "\(manifest.bytes(of: parts)) bytes in \(manifest.files(parts).count) files",
            "\(rows) vectors of \(Set(manifest.segments.map(\.tenant)).count) tenants", "key \(signed.keyId)",
        ]
        return columns.joined(separator: "  ") + marks
    }

    private static func time(_ microseconds: Int64) -> String {
        Date(timeIntervalSince1970: Double(microseconds / 1_000_000)).formatted(.iso8601)
    }

    private static func json(
        _ sound: [SignedManifest], _ damaged: [(name: SnapshotName, refusal: SnapshotRefusal)], _ parts: SnapshotParts,
        current: SnapshotName?, pinned: SnapshotName?
    ) throws -> String {
        let snapshots: [[String: Any]] = sound.map { signed in
            let manifest = signed.manifest
            return [
                "lineage": "\(manifest.lineage)", "number": manifest.number, "createdAt": time(manifest.createdAt),
                "bytes": manifest.bytes(of: parts), "files": manifest.files(parts).count,
                "tables": manifest.tables.count, "segments": manifest.segments.count,
                "vectors": manifest.segments.reduce(0) { $0 + $1.rows },
                "recallLeast": manifest.segments.map(\.recall).min().map { Double($0) as Any } ?? NSNull(),
                "positions": manifest.positions.map { $0.seq }, "key": signed.keyId, "current": signed.name == current,
                "pinned": signed.name == pinned,
            ]
        }
        let object: [String: Any] = [
            "snapshots": snapshots, "current": current.map { $0.number as Any } ?? NSNull(),
            "pinned": pinned.map { $0.number as Any } ?? NSNull(),
            "damaged": damaged.map {
                ["name": "\($0.name)", "reason": $0.refusal.reason.rawValue, "detail": $0.refusal.detail]
            },
        ]
        let data = try JSONSerialization.data(
            withJSONObject: object, options: [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
        return String(decoding: data, as: UTF8.self)
    }
}
