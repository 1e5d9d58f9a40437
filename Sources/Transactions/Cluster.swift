import Changes
import Core

/// What the protocol asks of the brokers: transactions, the group, the input and the changelog.
///
/// One implementation is librdkafka's, one the simulation's. Calls block until they are answered or their time is up;
/// events are handed over by the batch, never one by one.
package protocol Cluster: AnyObject, Sendable {
    associatedtype Producer: TransactionalClient
    associatedtype Input: InputReader
    associatedtype Group: GroupMember

    var lineage: Lineage { get }
    var partitions: Int { get }

    /// A client with one of the partition's two transactional ids, 0 or 1. It claims nothing yet.
    func makeProducer(of partition: Int, id: Int) throws -> Producer
    /// Lets go of a client that holds nothing, without waiting for its end.
    func drop(_ producer: Producer)
    /// Lets go of what holds clients, without waiting for their end.
    func retire(_ owner: any Sendable)
    /// Runs what waits for the brokers without keeping the caller, which it wakes from `wait` at its end.
    func beside(_ body: @escaping @Sendable () -> Void)
    /// Joins the group in a slot.
    func join(slot: Int) throws -> Group
    /// Whether another worker has claimed the slot since. Waits for a moment until that is known.
    func isTaken(slot: Int) -> Bool

    /// The first offset that the input still has of a partition, and the one after its last committed event.
    func inputBounds(of partition: Int) throws -> (low: UInt64, high: UInt64)
    func readInput(of partition: Int, from offset: UInt64) throws -> Input
    /// Waits until events may have come, or for so long.
    func wait(microseconds: Int64)
    /// Waits for so long, whatever comes.
    func rest(microseconds: Int64) throws
    /// Ends a wait.
    func wake()

    /// Whether all that was written to a changelog can be read: no transaction stands open in it.
    func isSettled(_ partition: Int) throws -> Bool
    /// The seq of the last committed batch that can be read; 0 before the first.
    func changelogEnd(of partition: Int) throws -> UInt64
    func changelog(
        of partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool) throws
    /// As `EventLog.follow`.
    func follow(
        partition: Int, after seq: UInt64, _ visit: (UInt64, UnsafeRawBufferPointer) throws -> Bool) throws
}

/// A producer with a transactional id: one transaction at a time.
package protocol TransactionalClient: AnyObject {
    associatedtype Failure: TransactionFailure

    /// Aborts what an older holder of the id has left open, or waits until it stands, and fences that holder.
    func initialize(milliseconds: Int32) throws(Failure)
    /// Asks for what the first transaction would wait for.
    func prepare() throws(Failure)
    func begin() throws(Failure)
    /// Writes scores, changes and dead letters into the open transaction.
    func produce(_ commit: StagedCommit) throws(Failure)
    /// Flushes and commits. An error that is neither abortable nor a fence leaves the outcome unknown.
    func commit(milliseconds: Int32) throws(Failure)
    func abort(milliseconds: Int32) throws(Failure)
    /// A transaction that holds nothing but a record which is no batch: its marker ends whatever the brokers have left open
    /// under the id.
    func endOpen(milliseconds: Int32) throws(Failure)
}

/// Why a transaction's call failed, and what that means.
package protocol TransactionFailure: Error, CustomStringConvertible {
    /// The same call with the same arguments may succeed.
    var isRetriable: Bool { get }
    /// The transaction cannot be committed any more: it is to be aborted.
    var isAbortable: Bool { get }
    /// Another holder of the id, or of the slot, has come after us.
    var isFenced: Bool { get }
    var isTimeout: Bool { get }
    var text: String { get }
}

/// One partition's input, read from an offset on, committed events alone.
package protocol InputReader: AnyObject {
    /// Events that are at hand or nearly so.
    var waiting: Int { get }
    /// The same, to be asked by any thread.
    var queued: Int { get }
    /// Appends events at or after the batch's end to it, while there are any and they fit.
    func fill(_ batch: EventBatch) throws
}

/// A worker's place in the group, which says which partitions are its own.
package protocol GroupMember: AnyObject, Sendable {
    /// Serves the group's protocol, and gives what has changed, oldest first. Fails where the slot was taken by another.
    func poll() throws -> GroupAssignment.Change?
    /// Whether the group says so now.
    func isOwned(_ partition: Int) -> Bool
    /// The partition was lost to another's claim: should the group give it to us, it is new.
    func lost(_ partition: Int)
    /// Where the group was told that a partition stands; `nil` where nobody told it.
    func reported(_ partition: Int) throws -> UInt64?
    /// Tells the group where partitions stand. Asynchronous, and for others' eyes: positions come from the changelog.
    func report(_ positions: [Int: UInt64])
    /// Leaves at once, so that nobody waits for the session's end. Whoever is to have the slot is not told to the group.
    func leave()
}
