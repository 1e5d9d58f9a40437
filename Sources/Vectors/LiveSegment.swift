/// A segment as collections use it: with the rows of it that are superseded or deleted.
///
/// Collections that follow each other share it, so a row that ends has ended in both.
package struct LiveSegment: Sendable {
    package let segment: Segment
    let dead: DeadRows

    package init(_ segment: Segment) {
        self.segment = segment
        dead = DeadRows(rows: segment.count)
    }

    /// Rows that a search can find.
    package var count: Int { segment.count - dead.count }

    package var deadCount: Int { dead.count }

    package func isLive(_ row: Int) -> Bool { !dead.contains(row) }

    /// Ends the row of an id; false where it is not there or has ended.
    @discardableResult
    package func end(_ id: UInt64) -> Bool {
        guard let row = segment.find(id) else { return false }
        return dead.end(row)
    }

    /// Ends the rows that are older than `time`. Returns how many it ended.
    @discardableResult
    package func end(before time: Int64) -> Int {
        var ended = 0
        segment.forEachRow(before: time) { if dead.end($0) { ended += 1 } }
        return ended
    }

    /// The same segment, of which further rows have ended, without ending them for those who hold this one.
    package func ending(where isEnded: (_ id: UInt64) -> Bool) -> LiveSegment {
        let copy = LiveSegment(segment)
        for row in 0..<segment.count where dead.contains(row) || isEnded(segment.row(row).id) { copy.dead.end(row) }
        return copy
    }

    /// Visits each live row with its vector.
    package func forEach(_ visit: (SegmentRow, [Float]) throws -> Void) rethrows {
        for row in 0..<segment.count where isLive(row) { try visit(segment.row(row), segment.vector(row)) }
    }
}
