/// The names of a pipeline's subjects and stream.
struct Subjects: Sendable {
    let stream: String
    let allChanges: String
    let heartbeat: String
    let repair: String
    private let prefix: String

    init(pipeline: String) {
        prefix = "tideline.\(pipeline)"
        stream = "tideline-\(pipeline)-changes"
        allChanges = "\(prefix).changes.*"
        heartbeat = "\(prefix).heartbeat"
        repair = "\(prefix).repair"
    }

    func changes(_ partition: UInt32) -> String { "\(prefix).changes.\(partition)" }
}
