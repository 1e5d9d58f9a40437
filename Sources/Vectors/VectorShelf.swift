internal import Synchronization

/// Where a tenant's collection stands: readers take it, the writer writes through it, and another takes its place.
///
/// A reader holds the collection that it took until its search ends; segments that no collection has any more are freed
/// with their last reader. Locks are held for taking a reference or writing a row, never while anything is opened,
/// searched or freed.
package final class VectorShelf: Sendable {
    private let current: Mutex<VectorCollection>
    private let journal = Mutex(Journal())
    /// One replacement at a time.
    private let replacing = Mutex(())

    /// What is written while another collection is prepared.
    private struct Journal {
        enum Entry {
            case put(VectorRow, [Float])
            case delete(UInt64)
        }

        var entries: [Entry] = []
        var isKept = false
    }

    /// So few entries are written to the next collection while the writer waits.
    private static let fewEntries = 64
    /// After so many rounds the writer waits for what is left: it is then as fast as whoever replaces.
    private static let roundsMax = 16

    package init(_ collection: VectorCollection) { current = Mutex(collection) }

    package var collection: VectorCollection { current.withLock { $0 } }

    // MARK: Writing

    /// - Parameter isNew: no segment holds a row of this id.
    @discardableResult
    package func put(_ row: VectorRow, _ vector: UnsafeBufferPointer<Float>, isNew: Bool = false) -> PutOutcome {
        journal.withLock { journal in
            if journal.isKept { unsafe journal.entries.append(.put(row, Array(vector))) }
            let collection = collection
            return unsafe isNew ? collection.tail.put(row, vector) : collection.put(row, vector)
        }
    }

    @discardableResult
    package func delete(_ id: UInt64) -> Bool {
        journal.withLock { journal in
            if journal.isKept { journal.entries.append(.delete(id)) }
            return collection.delete(id)
        }
    }

    // MARK: Replacing

    /// Puts another collection in place, made of the current one while writing goes on.
    ///
    /// - Parameter make: what the tail holds when it is called, or later, must be in the collection that it returns; what
    ///   is written while it runs is written to that one again.
    /// - Returns: the old one.
    @discardableResult
    package func replace(_ make: (VectorCollection) throws -> VectorCollection) rethrows -> VectorCollection {
        try replacing.withLock { _ in
            journal.withLock { $0.isKept = true }
            let old = collection
            do {
                let next = try make(old)
                // Whoever replaces may run at a low priority: most is written where nobody waits for it.
                for _ in 0..<Self.roundsMax {
                    let entries = journal.withLock { journal in
                        journal.entries.count > Self.fewEntries ? exchange(&journal.entries, with: []) : []
                    }
                    if entries.isEmpty { break }
                    Self.write(entries, to: next)
                }
                journal.withLock { journal in
                    Self.write(journal.entries, to: next)
                    journal = Journal()
                    current.withLock { $0 = next }
                }
            } catch {
                journal.withLock { $0 = Journal() }
                throw error
            }
            return old
        }
    }

    private static func write(_ entries: [Journal.Entry], to next: VectorCollection) {
        for entry in entries {
            switch entry {
            case .put(let row, let vector):
                unsafe vector.withUnsafeBufferPointer {
                    _ = unsafe next.put(row, $0)
                }
            case .delete(let id): next.delete(id)
            }
        }
    }
}
