/// How a region takes a snapshot: as it does, or with one of its rules broken.
///
/// The broken ones are there for the simulation, which must catch each (docs/simulation.md). No option, setting or file
/// reaches them.
package enum SnapshotVariant: String, CaseIterable, Sendable {
    case sound
    /// A snapshot is put in place though it holds events that the region has not applied.
    case installsEarly = "installs-early"
    /// Rows that are gone are live again where a new segment holds them.
    case forgetsDeleted = "forgets-deleted"
    /// What the region has applied counts as sealed, not what the snapshot holds.
    case sealedToFrontier = "sealed-to-frontier"

    /// All but the sound one.
    package static var planted: [SnapshotVariant] { allCases.filter { $0 != .sound } }
}
