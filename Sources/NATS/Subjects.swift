import Replicate

/// The names of a pipeline's subjects and stream.
struct Subjects: Sendable {
    let stream: String
    let allChanges: String
    let heartbeat: String
    let repair: String
    /// A server's newest snapshot, said again and again.
    let snapshotAnnounce: String
    private let prefix: String

    init(pipeline: String) {
        prefix = "tideline.\(pipeline)"
        stream = "tideline-\(pipeline)-changes"
        allChanges = "\(prefix).changes.*"
        heartbeat = "\(prefix).heartbeat"
        repair = "\(prefix).repair"
        snapshotAnnounce = "\(prefix).snapshots.announce"
    }

    func changes(_ partition: UInt32) -> String { "\(prefix).changes.\(partition)" }

    /// Where a request for snapshots goes: a subject a kind, so that rights can be given one by one.
    func snapshots(_ request: SnapshotRequest) -> String {
        switch request {
        case .latest: "\(prefix).snapshots.latest"
        case .manifest: "\(prefix).snapshots.manifest"
        case .chunk: "\(prefix).snapshots.chunk"
        }
    }

    var allSnapshotRequests: [String] {
        ["latest", "manifest", "chunk"].map { "\(prefix).snapshots.\($0)" }
    }
}
