/// A row of a segment, without its vector.
package struct SegmentRow: Sendable, Equatable {
    /// What the caller names the row by; of equal ids the newest version is the row.
    package var id: UInt64
    package var version: UInt64
    /// Event time in microseconds.
    package var time: Int64
    package var score: Float
    package var label: UInt32
    /// A hash of the entity that the row is about.
    package var entity: UInt64

    package init(
        id: UInt64, version: UInt64 = 0, time: Int64 = 0, score: Float = 0, label: UInt32 = 0, entity: UInt64 = 0
    ) {
        self.id = id
        self.version = version
        self.time = time
        self.score = score
        self.label = label
        self.entity = entity
    }
}

/// How a segment is made.
package struct SegmentPlan: Sendable {
    package var dimensions: Int
    package var metric: Metric
    /// HNSW's M: links a node gets while it is inserted, twice as many on the ground level.
    package var links = 32
    /// HNSW's efConstruction: how widely they are looked for.
    package var effort: Int
    /// Links of a node on the ground level after it was extended by neighbours' neighbours.
    package var linksMax = 64
    /// Threads of the building alone; they end with it.
    package var threads = 1
    /// Sampled vectors that serve as queries when recall is measured; 0 measures nothing, and the search takes a
    /// cautious effort.
    package var calibrationQueries = 256

    package init(dimensions: Int, metric: Metric) {
        self.dimensions = dimensions
        self.metric = metric
        // Beyond 32 coordinates twice as wide a search saves a quarter of a query's expansions, up to 32 none. (Measured:
        // docs/vectors.md.)
        effort = dimensions > 32 ? 256 : 128
    }
}

/// Why a segment was not made or not opened.
package enum SegmentError: Error, Sendable, Equatable {
    /// A row was refused: the index of the row in the input.
    case refused(row: Int, PutOutcome.Refusal)
    /// The rows and the vectors differ in their count, or there are none.
    case input(String)
    /// The building or writing failed.
    case failed(String)
    /// The file is no whole segment.
    case damaged(String)
}

/// How hard a search looks.
package enum SearchEffort: Sendable, Equatable {
    /// As hard as gave this recall@10 on the sampled vectors, when the segment was sealed; exact where nothing did.
    case recall(Float)
    /// Stops where the nearest open candidate is farther than (1 + gamma) × the k-th nearest so far, and looks at the
    /// neighbours of so many nodes at most. `shortlist`: of the nearest by code so many are kept where 10 are asked for, to be
    /// compared by their vectors.
    case gamma(Float, expansionsMax: Int, shortlist: Int = 20)
    /// Compares everything.
    case exact
}

/// What one effort gave when the segment was sealed.
package struct CalibratedEffort: Sendable, Equatable {
    package var gamma: Float
    /// Of the 10 nearest, by vectors that the graph was searched for as if they were not in it.
    package var recall: Float
    /// Nodes whose neighbours were looked at, on average.
    package var expansions: Float
    /// Of the nearest by code so many were kept, to be compared by their vectors.
    package var shortlist = 20
}

/// What a segment takes.
package struct SegmentFacts: Sendable, Equatable {
    package var rows = 0
    /// Vectors, each once.
    package var nodes = 0
    package var linkBytes = 0
    package var codeBytes = 0
    /// In memory; 0 where they stay mapped from the file.
    package var floatBytes = 0
    package var startBytes = 0
    /// What answers tell of rows, in memory.
    package var rowBytes = 0
    /// Ids, versions and columns, mapped from the file.
    package var columnBytes = 0
    package var fileBytes = 0

    package init() {}

    package var memoryBytes: Int { linkBytes + codeBytes + floatBytes + startBytes + rowBytes }

    package static func += (sum: inout SegmentFacts, other: SegmentFacts) {
        sum.rows += other.rows
        sum.nodes += other.nodes
        sum.linkBytes += other.linkBytes
        sum.codeBytes += other.codeBytes
        sum.floatBytes += other.floatBytes
        sum.startBytes += other.startBytes
        sum.rowBytes += other.rowBytes
        sum.columnBytes += other.columnBytes
        sum.fileBytes += other.fileBytes
    }
}
