internal import CFaiss
internal import Synchronization

/// Rows of a segment that are superseded or deleted, a bit each. Set by a writer while searches read.
///
/// `@unchecked Sendable`: the words are read and set by atomic operations alone (CColumns.h).
@safe final class DeadRows: @unchecked Sendable {
    let words: UnsafeMutablePointer<UInt64>
    private let total = Atomic<Int>(0)

    init(rows: Int) {
        unsafe words = .allocate(capacity: rows / 64 + 1)
        unsafe words.initialize(repeating: 0, count: rows / 64 + 1)
    }

    deinit { unsafe words.deallocate() }

    var count: Int { total.load(ordering: .relaxed) }

    /// False when the row was dead.
    @discardableResult
    func end(_ row: Int) -> Bool {
        guard unsafe tl_row_end(words, UInt32(row)) else { return false }
        total.add(1, ordering: .relaxed)
        return true
    }

    func contains(_ row: Int) -> Bool { unsafe tl_row_is_dead(words, UInt32(row)) }
}
