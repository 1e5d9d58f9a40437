internal import Foundation

/// Takeovers that run beside the scoring loop: the partitions that it has go on meanwhile.
///
/// `@unchecked Sendable`: guarded by the lock.
final class Takeovers<Brokers: Cluster>: @unchecked Sendable {
    /// A partition that nobody else can commit to any more, and the seq of its last batch.
    struct Taken {
        let partition: Int
        let place: OwnedPartition<Brokers>
        let end: UInt64
    }

    private let cluster: Brokers
    private let lock = NSLock()
    /// Of each partition that is being taken the number of its attempt: what an older one brings is too late.
    private var underWay: [Int: UInt64] = [:]
    private var attempts: UInt64 = 0
    private var ended: [(partition: Int, attempt: UInt64, result: Result<Taken, any Error>)] = []

    init(_ cluster: Brokers) { self.cluster = cluster }

    func begin(_ partition: Int, _ body: @escaping @Sendable () throws -> Taken) {
        let attempt = lock.withLock {
            attempts += 1
            underWay[partition] = attempts
            return attempts
        }
        cluster.beside { [self] in
            let result = Result { try body() }
            lock.withLock { ended.append((partition, attempt, result)) }
            cluster.wake()
        }
    }

    /// The partition was given up meanwhile.
    func cancel(_ partition: Int) { lock.withLock { underWay[partition] = nil } }

    /// The next one that has ended. Throws what it failed with.
    func next() throws -> Taken? {
        while let (partition, attempt, result) = lock.withLock({ ended.isEmpty ? nil : ended.removeFirst() }) {
            let isWanted = lock.withLock {
                guard underWay[partition] == attempt else { return false }
                underWay[partition] = nil
                return true
            }
            if isWanted { return try result.get() }
            if case .success(let taken) = result { taken.place.retire() }
        }
        return nil
    }
}
