import CMicroHTTPD
import Synchronization

/// An answer that is waited for: suspended by the daemon's thread, given by any, once.
///
/// `MHD_resume_connection` may be called from any thread for a connection that is suspended, and a suspended one is
/// not freed; the lock keeps both so. `@unchecked Sendable`: the state is touched under the lock alone.
final class Waiter: @unchecked Sendable {
    let deadline: UInt64
    let fallback: Response
    private let lock = Mutex(())
    private var state = State()

    @safe private struct State {
        var response: Response?
        var suspended: OpaquePointer?
    }

    init(_ deferral: Deferral) {
        deadline = Monotonic.now + deferral.timeout.nanoseconds
        fallback = deferral.fallback
    }

    var isAnswered: Bool { withState { $0.response != nil } }

    /// The answer, once there is one.
    var taken: Response? { withState { $0.response } }

    /// Suspends the connection, unless the answer is there already.
    func suspend(_ handle: OpaquePointer) {
        withState { state in
            if state.response != nil { return }
            unsafe MHD_suspend_connection(handle)
            unsafe state.suspended = unsafe handle
        }
    }

    private func withState<R>(_ body: (inout State) -> R) -> R {
        lock.withLock { _ in body(&state) }
    }

    @discardableResult
    func answer(with response: Response) -> Bool {
        withState { state in
            if state.response != nil { return false }
            state.response = response.isWhole ? response : Problem(status: 500).response
            if let handle = unsafe state.suspended {
                unsafe state.suspended = nil
                unsafe MHD_resume_connection(handle)
            }
            return true
        }
    }
}

/// Gives the answer to a request that waits; any thread may, the first one counts.
package struct Responder: Sendable {
    let waiter: Waiter

    /// Sends a whole answer.
    ///
    /// - Returns: false when the request was answered before, perhaps because its time was up.
    @discardableResult
    package func respond(_ response: Response) -> Bool { waiter.answer(with: response) }

    /// Whether an answer was given, by whomever.
    package var isAnswered: Bool { waiter.isAnswered }
}
