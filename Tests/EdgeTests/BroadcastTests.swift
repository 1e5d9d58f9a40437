import Testing

@testable import Edge

@Suite struct BroadcastSelectionTests {
    /// The places of a batch's events that are shown; `flagged` says which places are flagged.
    private func shown(of count: Int, flagged: (Int) -> Bool) -> [Int] {
        let total = (0..<count).filter(flagged).count
        var selection = BroadcastSelection(flagged: total, others: count - total)
        return (0..<count).filter { selection.takes(flagged: flagged($0)) }
    }

    @Test func aSmallBatchIsShownWhole() {
        #expect(shown(of: 50) { $0 % 7 == 0 } == Array(0..<50))
    }

    @Test func aFlaggedEventIsShownWhereverItStands() {
        let places = shown(of: 1000) { $0 == 3 || $0 == 400 }
        #expect(places == [3, 400] + Array(952..<1000))
    }

    @Test func ofTooManyFlaggedOnesTheNewestAreShown() {
        #expect(shown(of: 1000) { $0 < 900 } == Array(700..<900))
        #expect(shown(of: 1000) { $0 % 10 == 0 } == Array(stride(from: 0, to: 1000, by: 10)))
    }
}
