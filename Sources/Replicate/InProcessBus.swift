internal import Foundation
import Changes
import Service

/// A bus within one process: for tests, for simulations and for a replica beside its core. It drops on command.
///
/// `@unchecked Sendable`: all state is guarded by the lock.
package final class InProcessBus: DeltaPublisher, @unchecked Sendable {
    private let lock = NSLock()
    private var subscribers: [Subscriber] = []
    private var repairs: [PendingRepair] = []
    private var stream: [(partition: UInt32, bytes: [UInt8])] = []
    private var connected = true
    /// Says which published batches are lost on the way.
    private var loses: (@Sendable (_ partition: UInt32, _ count: Int) -> Bool)?

    package init() {}

    package func setConnected(_ value: Bool) { lock.withLock { connected = value } }

    package func lose(_ which: (@Sendable (_ partition: UInt32, _ count: Int) -> Bool)?) {
        lock.withLock { loses = which }
    }

    package var isConnected: Bool { lock.withLock { connected } }

    package func publish(_ encoded: UnsafeRawBufferPointer, partition: UInt32, messageId: String) throws -> Bool {
        let bytes = unsafe Array(encoded)
        return lock.withLock {
            guard connected else { return false }
            stream.append((partition, bytes))
            if loses?(partition, stream.count) == true { return true }
            for subscriber in subscribers { subscriber.offer(.batch(bytes, busSequence: UInt64(stream.count))) }
            return true
        }
    }

    package func lastPublished(partition: UInt32) throws -> (lineage: Lineage, seq: UInt64)? {
        let last = lock.withLock { stream.last { $0.partition == partition }?.bytes }
        guard let last else { return nil }
        let header = try unsafe last.withUnsafeBytes { try unsafe ChangeBatch(decoding: $0).header }
        return (header.lineage, header.seq)
    }

    package func publish(_ heartbeat: Heartbeat) throws {
        lock.withLock { if connected { for subscriber in subscribers { subscriber.offer(.heartbeat(heartbeat)) } } }
    }

    package func nextRepair() -> PendingRepair? { lock.withLock { repairs.isEmpty ? nil : repairs.removeFirst() } }

    package func makeSubscriber() -> Subscriber {
        let subscriber = Subscriber(self)
        lock.withLock { subscribers.append(subscriber) }
        return subscriber
    }

    /// A replica's end of the bus.
    ///
    /// `@unchecked Sendable`: guarded by the condition.
    package final class Subscriber: DeltaSubscriber, @unchecked Sendable {
        private let bus: InProcessBus
        private let condition = NSCondition()
        private var queue: [BusMessage] = []
        private static let messagesMax = 4096

        fileprivate init(_ bus: InProcessBus) { self.bus = bus }

        package var isConnected: Bool { bus.isConnected }

        fileprivate func offer(_ message: BusMessage) {
            condition.lock()
            // Over the bound the message is lost, as on any bus: the replica sees a gap.
            if queue.count < Self.messagesMax { queue.append(message) }
            condition.signal()
            condition.unlock()
        }

        package func next(waitMicroseconds: Int) -> BusMessage? {
            condition.lock()
            defer { condition.unlock() }
            let deadline = Date(timeIntervalSinceNow: Double(waitMicroseconds) / 1_000_000)
            while queue.isEmpty, condition.wait(until: deadline) {}
            return queue.isEmpty ? nil : queue.removeFirst()
        }

        package func request(_ repair: RepairRequest) throws {
            let pending = unsafe PendingRepair(request: repair) { [weak self] encoded in
                unsafe self?.offer(.batch(Array(encoded), busSequence: 0))
            }
            bus.lock.withLock { if bus.connected { bus.repairs.append(pending) } }
        }

        package func subscribe(after busSequence: UInt64?) throws {
            guard let busSequence else { return }
            let missed = bus.lock.withLock { Array(bus.stream.enumerated().dropFirst(Int(busSequence))) }
            for (index, message) in missed { offer(.batch(message.bytes, busSequence: UInt64(index + 1))) }
        }

        package func subscribeFromStart() throws { try subscribe(after: 0) }
    }
}
