/// How far apart two vectors are.
package enum Metric: Sendable, CaseIterable {
    /// The squared Euclidean distance, as FAISS has it; 0 is equal.
    case squaredL2
    /// The negated inner product, so that the least is the nearest here too.
    case innerProduct
    /// One minus the cosine, 0…2. Vectors are kept at length 1, and the distance is half of their squared Euclidean
    /// one: the same number, without its cancellation near 0.
    case cosine
}

/// A row of a tail, without its vector.
package struct VectorRow: Sendable, Equatable {
    /// What the caller names the row by; equal ids are versions of one row.
    package var id: UInt64
    /// Event time in microseconds.
    package var time: Int64
    package var score: Float
    /// Bits of the caller's meaning.
    package var flags: UInt32
    package var tenant: UInt32
    /// A hash of the entity that the row is about.
    package var entity: UInt64
    /// A code of the caller's meaning, such as a label's.
    package var label: UInt32

    package init(
        id: UInt64, time: Int64 = 0, score: Float = 0, flags: UInt32 = 0, tenant: UInt32 = 0, entity: UInt64 = 0,
        label: UInt32 = 0
    ) {
        self.id = id
        self.time = time
        self.score = score
        self.flags = flags
        self.tenant = tenant
        self.entity = entity
        self.label = label
    }
}

/// A row that a search found.
package struct Neighbour: Sendable, Equatable {
    package var row: VectorRow
    package var distance: Float

    package init(row: VectorRow, distance: Float) {
        self.row = row
        self.distance = distance
    }
}

/// Which rows a search may find; applied within the scan, so that k results come where k exist.
package struct VectorFilter: Sendable, Equatable {
    /// Microseconds, both ends included.
    package var times: ClosedRange<Int64> = Int64.min...Int64.max
    /// Both ends included. A score that is no number passes the full range alone.
    package var scores: ClosedRange<Float> = -Float.infinity...Float.infinity
    /// Bits that must all be set in a row's flags. Segments keep no flags, and pass rows by 0 alone.
    package var flags: UInt32 = 0
    /// The one entity, or nil for all.
    package var entity: UInt64?
    /// The one label, or nil for all.
    package var label: UInt32?

    package init() {}

    package init(times: ClosedRange<Int64>) { self.times = times }
    package init(scores: ClosedRange<Float>) { self.scores = scores }
    package init(flags: UInt32) { self.flags = flags }
    package init(entity: UInt64) { self.entity = entity }
    package init(label: UInt32) { self.label = label }

    package var passesAll: Bool { self == VectorFilter() }
}

/// What became of a vector that was put.
package enum PutOutcome: Sendable, Equatable {
    case stored
    /// It took the place of an older version of its id.
    case replaced
    case refused(Refusal)

    package enum Refusal: Sendable, Equatable, CaseIterable {
        /// Another count of coordinates than the tail has.
        case dimensions
        /// A coordinate is infinite or no number, or the length overflows.
        case notFinite
        /// The length is zero or too small to divide by.
        case zero
    }
}

/// Why a query is none.
package enum VectorQueryError: Error, Sendable, Equatable {
    case dimensions(expected: Int, actual: Int)
    case notFinite
    case zero
}

/// What a tail holds, and what happened to what it no longer holds.
package struct TailCounts: Sendable, Equatable {
    /// Rows that a search can find.
    package var rows = 0
    /// Rows with room, dead ones among them.
    package var slots = 0
    package var bytes = 0
    package var stored: UInt64 = 0
    package var replaced: UInt64 = 0
    package var deleted: UInt64 = 0
    /// Live rows that gave way because the tail was full.
    package var evicted: UInt64 = 0
    package var refusedDimensions: UInt64 = 0
    package var refusedNotFinite: UInt64 = 0
    package var refusedZero: UInt64 = 0

    package init() {}
}
