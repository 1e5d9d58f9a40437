import Changes
import Replicate

/// A stream with positions, and messages that are dropped, doubled, delayed past each other and damaged on the way.
///
/// `@unchecked Sendable`: a history runs in one thread.
final class SimulatedBus: @unchecked Sendable {
    private let time: SimulatedClock.Time
    private var random: SeededGenerator
    private var stream: [(partition: UInt32, lineage: Lineage, seq: UInt64, bytes: [UInt8])] = []
    /// The stream's position before `stream`'s first message: what is older was discarded.
    private var discarded = 0
    private static let messagesMax = 400
    fileprivate var repairs: [PendingRepair] = []
    private var subscribers: [Subscriber] = []
    /// Messages are dropped, doubled and damaged.
    var isLossy = true

    init(_ time: SimulatedClock.Time, seed: UInt64) {
        self.time = time
        random = SeededGenerator(seed)
    }

    func makeSubscriber() -> Subscriber {
        let subscriber = Subscriber(self)
        subscribers.append(subscriber)
        return subscriber
    }

    func remove(_ subscriber: Subscriber) { subscribers.removeAll { $0 === subscriber } }

    fileprivate func publish(_ encoded: UnsafeRawBufferPointer, partition: UInt32) throws {
        let header = try unsafe ChangeBatch(decoding: encoded).header
        stream.append((partition, header.lineage, header.seq, unsafe Array(encoded)))
        let position = UInt64(discarded + stream.count)
        for subscriber in subscribers { send(.batch(unsafe Array(encoded), busSequence: position), to: subscriber) }
        if stream.count > Self.messagesMax {
            stream.removeFirst(Self.messagesMax / 2)
            discarded += Self.messagesMax / 2
        }
    }

    fileprivate func publish(_ heartbeat: Heartbeat) {
        for subscriber in subscribers { send(.heartbeat(heartbeat), to: subscriber) }
    }

    fileprivate func lastPublished(_ partition: UInt32) -> (lineage: Lineage, seq: UInt64)? {
        stream.last { $0.partition == partition }.map { ($0.lineage, $0.seq) }
    }

    /// What the stream still holds after a position.
    fileprivate func replay(after position: Int, to subscriber: Subscriber) {
        for index in max(0, position - discarded)..<max(stream.count, max(0, position - discarded)) {
            send(.batch(stream[index].bytes, busSequence: UInt64(discarded + index + 1)), to: subscriber)
        }
    }

    fileprivate func send(_ message: BusMessage, to subscriber: Subscriber) {
        guard !subscriber.isCut else { return }
        var copies = 1
        var message = message
        if isLossy {
            if random.oneIn(20) { copies = 0 }
            if random.oneIn(20) { copies += 1 }
            if case .batch(var bytes, let sequence) = message, random.oneIn(50) {
                bytes[random.below(bytes.count)] ^= UInt8(1 << random.below(8))
                message = .batch(bytes, busSequence: sequence)
            }
        }
        for _ in 0..<copies {
            let delay = isLossy && random.oneIn(10) ? random.time(400_000) : random.time(3000)
            subscriber.offer(message, at: time.now + delay)
        }
    }

    /// A relay's end of the bus.
    ///
    /// `@unchecked Sendable`: a history runs in one thread.
    final class Publisher: DeltaPublisher, @unchecked Sendable {
        private let bus: SimulatedBus
        var isCut = false

        init(_ bus: SimulatedBus) { self.bus = bus }

        var isConnected: Bool { !isCut }

        func publish(_ encoded: UnsafeRawBufferPointer, partition: UInt32, messageId: String) throws -> Bool {
            guard !isCut else { return false }
            try unsafe bus.publish(encoded, partition: partition)
            return true
        }

        func lastPublished(partition: UInt32) throws -> (lineage: Lineage, seq: UInt64)? {
            bus.lastPublished(partition)
        }

        func publish(_ heartbeat: Heartbeat) throws { if !isCut { bus.publish(heartbeat) } }

        func nextRepair() -> PendingRepair? {
            isCut || bus.repairs.isEmpty ? nil : bus.repairs.removeFirst()
        }
    }

    /// A region's end of the bus.
    ///
    /// `@unchecked Sendable`: a history runs in one thread.
    final class Subscriber: DeltaSubscriber, @unchecked Sendable {
        private let bus: SimulatedBus
        private var queue: [(at: Int64, message: BusMessage)] = []
        private var wasCut = false
        /// The heartbeats that were handed over: the partition, its head, and when.
        private(set) var heard: [(partition: Int, seq: UInt64, at: Int64)] = []
        /// What is on its way when the connection goes is lost; what has come is there.
        var isCut = false {
            didSet {
                guard isCut else { return }
                wasCut = true
                queue.removeAll { $0.at > bus.time.now }
            }
        }

        fileprivate init(_ bus: SimulatedBus) { self.bus = bus }

        var isConnected: Bool { !isCut }

        fileprivate func offer(_ message: BusMessage, at: Int64) {
            let place = queue.lastIndex { $0.at <= at }.map { $0 + 1 } ?? 0
            queue.insert((at, message), at: place)
        }

        func next(waitMicroseconds: Int) -> BusMessage? {
            if wasCut, !isCut {
                wasCut = false
                return .reconnected
            }
            guard let first = queue.first, first.at <= bus.time.now else { return nil }
            queue.removeFirst()
            if case .heartbeat(let heartbeat) = first.message {
                heard.removeAll { $0.at < bus.time.now - 30_000_000 }
                for head in heartbeat.heads { heard.append((Int(head.partition), head.seq, bus.time.now)) }
            }
            return first.message
        }

        func request(_ repair: RepairRequest) throws {
            guard !isCut else { return }
            if bus.isLossy, bus.random.oneIn(10) { return }
            bus.repairs.append(
                unsafe PendingRepair(request: repair) { [weak self] encoded in
                    if let self { self.bus.send(.batch(unsafe Array(encoded), busSequence: 0), to: self) }
                })
        }

        func subscribe(after busSequence: UInt64?) throws {
            if let busSequence { bus.replay(after: Int(busSequence), to: self) }
        }

        func subscribeFromStart() throws { bus.replay(after: 0, to: self) }
    }
}
