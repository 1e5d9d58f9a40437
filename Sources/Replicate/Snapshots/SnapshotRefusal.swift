/// Why a snapshot, or a part of it, is not taken. The old one serves on.
package struct SnapshotRefusal: Error, Equatable, Sendable, CustomStringConvertible {
    /// A bounded set: it labels a metric.
    package enum Reason: String, CaseIterable, Sendable {
        /// Not a manifest, an envelope or an answer that this program reads.
        case malformed
        /// Not signed by a key that is trusted, or changed since.
        case signature
        /// Of another log.
        case lineage
        /// Of another pipeline, or another schema of it.
        case pipeline
        /// Vectors of another model.
        case model
        /// Vectors of another dimension or metric.
        case dimension
        /// Over a limit of ours, or over what the disk has left.
        case tooLarge
        /// More bytes, or another number of them, than the manifest says.
        case size
        /// Bytes that hash to something else.
        case hash
        /// Fewer bytes than were asked for.
        case truncated
        /// Nothing in it.
        case empty
        /// Search finds too few of the true neighbours.
        case recall
        /// Not newer than what is there.
        case older
        /// Nobody answers, or nobody has it.
        case unavailable
        /// What lies on our own disk is not what was put there.
        case damaged
    }

    package let reason: Reason
    package let detail: String

    package init(_ reason: Reason, _ detail: String) {
        self.reason = reason
        self.detail = detail
    }

    package var description: String { "snapshot refused (\(reason.rawValue)): \(detail)" }
}
