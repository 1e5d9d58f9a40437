import Transactions

/// A call to the simulated brokers failed.
struct SimulatedFailure: TransactionFailure {
    enum Kind: String {
        /// No answer in time: whether the request took effect nobody knows.
        case timeout
        /// The connection was lost: as unknown as a timeout.
        case disconnected
        case abortable
        case fenced
        /// The caller is dead: nothing that it asks for takes effect any more.
        case dead
    }

    let kind: Kind

    init(_ kind: Kind) { self.kind = kind }

    var isRetriable: Bool { false }
    var isAbortable: Bool { kind == .abortable }
    var isFenced: Bool { kind == .fenced }
    var isTimeout: Bool { kind == .timeout }
    var text: String { kind.rawValue }
    var description: String { "simulated: \(kind.rawValue)" }
}
