import Foundation
import Testing

@testable import Vectors

@Suite struct SegmentFormTests {
    /// A file of the first form, whose one table does not say how long the shortlist was, is read as it was.
    @Test func theFirstFormIsRead() throws {
        let fixture = try SegmentFixture()
        let vectors = SegmentFixture.clustered(3000, 32, seed: 5)
        let segment = try fixture.segment(SegmentFixture.rows(3000), vectors, .squaredL2)
        #expect(Set(segment.calibration.map(\.shortlist)) == [16, 24])
        let bytes = [UInt8](try Data(contentsOf: URL(filePath: fixture.path())))
        var layout = segment.layout
        layout.version = .first
        layout.calibration = segment.calibration.filter { $0.shortlist == 24 }.map {
            CalibratedEffort(gamma: $0.gamma, recall: $0.recall, expansions: $0.expansions, shortlist: 20)
        }
        let old = bytes[..<layout.footerOffset] + layout.footer
        try Data(old).write(to: URL(filePath: fixture.path("old.segment")))
        let former = try Segment(path: fixture.path("old.segment"))
        #expect(former.calibration == layout.calibration && former.count == 3000)
        for query in vectors.prefix(20) {
            let effort = SearchEffort.gamma(0.3, expansionsMax: 500)
            #expect(try former.search(query, k: 10, effort: effort) == segment.search(query, k: 10, effort: effort))
            #expect(try former.search(query, k: 10).first?.distance == 0)
        }
    }

    /// What is asked for as recall is given by the cheapest of the tables that reach it.
    @Test func theLadderTakesTheCheapest() {
        func entry(_ gamma: Float, _ recall: Float, _ expansions: Float, _ shortlist: Int) -> CalibratedEffort {
            CalibratedEffort(gamma: gamma, recall: recall, expansions: expansions, shortlist: shortlist)
        }
        let ladder = EffortLadder([
            entry(0, 0.9, 10, 16), entry(0.2, 0.96, 40, 16), entry(0, 0.92, 10, 24), entry(0.2, 0.999, 40, 24),
        ])
        #expect(ladder[0.5] == .init(gamma: 0, expansionsMax: 72, shortlist: 16))
        #expect(ladder[0.9]?.shortlist == 16, "as many expansions, and less to sort")
        #expect(ladder[0.95]?.shortlist == 24, "fewer expansions")
        #expect(ladder[0.99]?.shortlist == 24 && ladder[1] == nil)
        #expect(ladder[0.95] == ladder[0.9499999])
        #expect(EffortLadder([])[0.9] == nil)
    }
}
