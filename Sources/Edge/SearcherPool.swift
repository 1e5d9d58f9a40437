import Vectors
internal import Synchronization

/// Room for searches, lent to one query at a time: as many as there were queries at once.
final class SearcherPool: Sendable {
    /// `@unchecked Sendable`: whoever took it alone touches it.
    final class Searcher: @unchecked Sendable {
        var room = CollectionSearcher()
    }

    private let free = Mutex<[Searcher]>([])

    func take() -> Searcher { free.withLock { $0.popLast() } ?? Searcher() }

    func give(back searcher: Searcher) { free.withLock { $0.append(searcher) } }
}
