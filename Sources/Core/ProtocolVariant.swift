/// How the protocol of commit and takeover is run: as it is, or with one of its rules broken.
///
/// The broken ones are there for the simulation, which must catch each (docs/simulation.md): a check that cannot fail is
/// none. No option, setting or file reaches them; whoever wires a role leaves the default.
package enum ProtocolVariant: String, CaseIterable, Sendable {
    case sound
    /// A batch counts as committed before the log has said so.
    case appliesBeforeCommit = "apply-before-commit"
    /// A takeover goes on where the group was last told that the partition stands, not where the changelog ends.
    case positionFromGroup = "position-from-group"
    /// The changelog's end is read before the ids are initialised.
    case endBeforeInit = "end-before-init"
    /// Some workers initialise the second id first.
    case initInAnyOrder = "init-in-any-order"
    /// The first transaction after a takeover uses the second id.
    case secondIdFirst = "second-id-first"
    /// A commit that nobody has acknowledged counts as acknowledged: the next transaction begins.
    case beginsEarly = "begins-early"
    /// A replay does not remember the event ids that it reads, so that their duplicates are scored again.
    case duplicateNotDropped = "duplicate-not-dropped"
    /// A commit whose outcome nobody knows counts as aborted.
    case uncertainIsAborted = "uncertain-is-aborted"

    /// All but the sound one.
    package static var planted: [ProtocolVariant] { allCases.filter { $0 != .sound } }

    /// Whether any takeover may initialise the ids in reverse: each second one does.
    package func reversesIds(takeOver number: Int) -> Bool { self == .initInAnyOrder && number % 2 == 1 }
}
