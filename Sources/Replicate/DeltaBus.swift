import Changes

/// The relay's side of the bus: lossy transport for what the log has decided.
///
/// All calls come from the relay's thread. What is on its way is bounded in bytes.
package protocol DeltaPublisher: Sendable {
    /// Whether a message would reach the bus now.
    var isConnected: Bool { get }
    /// Sends an encoded batch; returns `false` where the window is full or the bus is away: try again later.
    func publish(_ encoded: UnsafeRawBufferPointer, partition: UInt32, messageId: String) throws -> Bool
    /// The last batch that the bus holds of a partition; `nil` where it holds none, or none of ours.
    func lastPublished(partition: UInt32) throws -> (lineage: Lineage, seq: UInt64)?
    func publish(_ heartbeat: Heartbeat) throws
    /// The next request of a replica, if one waits.
    func nextRepair() -> PendingRepair?
}

/// A replica's request and the way back to it.
@safe package struct PendingRepair: Sendable {
    package let request: RepairRequest
    /// Sends one batch of the answer.
    package let answer: @Sendable (UnsafeRawBufferPointer) throws -> Void

    package init(request: RepairRequest, answer: @escaping @Sendable (UnsafeRawBufferPointer) throws -> Void) {
        self.request = request
        unsafe self.answer = unsafe answer
    }
}

/// A replica's side of the bus.
package protocol DeltaSubscriber: Sendable {
    var isConnected: Bool { get }
    /// Pulls the next message, waiting at most so long. What waits is bounded in bytes: a full buffer holds the bus's
    /// own thread back, and what the bus then drops shows as a gap.
    func next(waitMicroseconds: Int) -> BusMessage?
    func request(_ repair: RepairRequest) throws
    /// Begins to receive batches: after a position of the bus, or only new ones.
    func subscribe(after busSequence: UInt64?) throws
    /// Begins again with everything that the bus still holds.
    func subscribeFromStart() throws
}

package enum BusMessage: Sendable {
    /// An encoded batch, and its position on the bus (0 for the answer to a repair).
    case batch([UInt8], busSequence: UInt64)
    case heartbeat(Heartbeat)
    /// The bus came back after an interruption: what was sent meanwhile may be lost.
    case reconnected
}
