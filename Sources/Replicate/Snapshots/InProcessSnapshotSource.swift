internal import Foundation
internal import Synchronization

/// A source that reads a store in the same process: for tests, for simulations and for a region beside its sealer. It
/// fails on command.
package final class InProcessSnapshotSource: SnapshotSource {
    package enum Fault: Equatable, Sendable {
        /// No answer comes.
        case drop
        /// The lowest bit of the first byte is flipped.
        case corrupt
        /// Half of the bytes come.
        case truncate
        /// So many bytes more than were asked for.
        case surplus(Int)
        /// The answer is late.
        case delay(milliseconds: Int)
    }

    private struct State {
        var requests = 0
        var bytes = 0
    }

    private let server: SnapshotServer
    private let fault: @Sendable (_ file: SnapshotFile, _ offset: Int, _ request: Int) -> Fault?
    private let state = Mutex(State())

    /// - Parameter fault: what happens to the answer of the nth request (1, 2, …) for a part of a file; `nil`: nothing.
    package init(
        _ store: SnapshotStore,
        fault: @escaping @Sendable (_ file: SnapshotFile, _ offset: Int, _ request: Int) -> Fault? = { _, _, _ in nil }
    ) {
        server = SnapshotServer(store)
        self.fault = fault
    }

    /// Requests for parts of files so far.
    package var requests: Int { state.withLock { $0.requests } }
    /// Bytes of files that were handed over.
    package var bytesServed: Int { state.withLock { $0.bytes } }

    package func latest() throws -> [UInt8]? { try envelope(.latest) }

    package func manifest(number: UInt64) throws -> [UInt8]? { try envelope(.manifest(number: number)) }

    private func envelope(_ request: SnapshotRequest) throws -> [UInt8]? {
        switch server.answer(request) {
        case .bytes(let bytes): bytes
        case .nothing: nil
        case .refused(let refusal): throw refusal
        }
    }

    package func chunk(of file: SnapshotFile, offset: Int, length: Int) throws -> [UInt8] {
        let number = state.withLock { state in
            state.requests += 1
            return state.requests
        }
        let happens = fault(file, offset, number)
        if case .delay(let milliseconds) = happens { usleep(UInt32(milliseconds) * 1000) }
        if happens == .drop { throw SnapshotRefusal(.unavailable, "no answer came") }
        var bytes: [UInt8]
        switch server.answer(.chunk(sha256: file.sha256, offset: offset, length: length)) {
        case .bytes(let part): bytes = part
        case .refused(let refusal): throw refusal
        case .nothing: throw SnapshotRefusal(.unavailable, "file \(file.sha256) is not there")
        }
        switch happens {
        case .corrupt: bytes[0] ^= 1
        case .truncate: bytes = Array(bytes.prefix(bytes.count / 2))
        case .surplus(let count): bytes += [UInt8](repeating: 0, count: count)
        case .drop, .delay, nil: break
        }
        state.withLock { [count = bytes.count] in $0.bytes += count }
        return bytes
    }
}
