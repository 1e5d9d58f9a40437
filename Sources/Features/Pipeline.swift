/// What a pipeline file declares: where an event's parts sit in its JSON, which features are made of them, which model
/// scores them, and the limits.
package struct Pipeline: Sendable {
    /// What a column of the event holds.
    package enum ColumnType: Sendable, Equatable {
        case text
        case number
        case time(TimeUnit)
        /// An array of so many numbers.
        case vector(dimension: Int)
    }

    /// The unit of a time that is given as a number; a text is always RFC 3339.
    package enum TimeUnit: String, Sendable, CaseIterable {
        case rfc3339, s, ms, us, ns
    }

    /// One value that is read from an event's JSON.
    package struct Column: Sendable {
        package let name: String
        /// Names joined by dots.
        package let path: String
        package let type: ColumnType
        package let required: Bool
    }

    /// A kind of thing that events are about, such as a customer.
    package struct Entity: Sendable {
        package let name: String
        /// Index of its column.
        package let column: Int
        /// A shared entity's events lie in every partition: each keeps a partial, merged on read.
        package let shared: Bool
        /// Columns whose values its tiles sum.
        package let measures: [Int]
        /// Columns whose distinct values its tiles sketch.
        package let distincts: [Int]
        package let windows: [Window]
    }

    /// A span of tiles that features read together.
    package struct Window: Sendable, Equatable {
        /// 0 minutes, 1 hours, 2 days.
        package let level: Int
        /// Its length in tiles of the level.
        package let tiles: Int
        package var sketches: Bool
        package let label: String
    }

    package enum Statistic: String, Sendable, CaseIterable {
        case count, sum, mean, max, min, stddev
    }

    package enum Clock: String, Sendable, CaseIterable {
        case hour, weekday, night, weekend
    }

    package enum Feature: Sendable {
        case value(column: Int)
        /// log(1 + x) of a value that is not negative.
        case log(column: Int)
        case clock(Clock)
        case sinceLast(entity: Int)
        case window(entity: Int, window: Int, measure: Int, statistic: Statistic)
        case distinct(entity: Int, window: Int, distinct: Int)
        /// The event's value over the entity's own mean in the window.
        case ratio(entity: Int, window: Int, measure: Int, column: Int)
    }

    /// Where an event's vector comes from, and what makes two of them alike.
    package struct Embedding: Sendable, Equatable {
        package enum Metric: String, Sendable, CaseIterable {
            case l2, cosine
            case innerProduct = "inner_product"
        }

        /// The column that brings it; `nil` where the model makes it.
        package var column: Int?
        /// Its numbers; 0 where the model decides.
        package var dimension = 0
        package var metric = Metric.l2
    }

    package struct Limits: Sendable {
        /// How long a batch may wait for more events, in microseconds.
        package var latencyBudgetMicroseconds = 10_000
        package var eventBytesMax = 256 << 10
        /// An event further ahead of its append time than this is scored as of its append time.
        package var futureMicroseconds: Int64 = 300_000_000
        /// Duplicates are known for this many ids and this long, a partition.
        package var duplicateIdsMax = 1_000_000
        package var duplicateWindowMicroseconds: Int64 = 86_400_000_000
        /// Entities whose tiles stay in memory; the rest is read from disk when needed.
        package var entitiesInMemoryMax = 200_000
        package var tailVectorsMax = 1_000_000
        /// Events and vectors go from the regions when the log's watermark has passed them by so much.
        package var retentionMicroseconds: Int64 = 90 * 86_400_000_000

        /// The time that an event counts at, and whether it is another than its own: one event of tomorrow must not
        /// make everybody else late, so it counts as of the moment at which it was taken.
        package func effectiveTime(_ eventTime: Int64, takenAt: Int64) -> (time: Int64, fromFuture: Bool) {
            eventTime > takenAt + futureMicroseconds ? (takenAt, true) : (eventTime, false)
        }
    }

    package let name: String
    package let schema: UInt32
    package let file: String
    package let assumeUTC: Bool
    /// The event's id, its time, its tenant (where the events say it), then entities and fields.
    package let columns: [Column]
    package let tenantColumn: Int?
    package let tenants: [String]
    /// The first is the primary one.
    package let entities: [Entity]
    /// Columns kept with each scored event, in this order.
    package let kept: [Int]
    package let features: [Feature]
    package let featureNames: [String]
    package let embedding: Embedding
    /// Path of the model file, relative paths beginning at the pipeline file's folder.
    package let model: String?
    /// Scores above this are flagged.
    package let threshold: Float
    /// How many reasons go with a flagged event.
    package let reasonsMax: Int
    package let limits: Limits
    /// The `kafka` section: `topic`, and properties of the client under their own names.
    package let kafka: [String: Setting]

    /// A value as it stands, or where it is found: secrets stand in no pipeline file.
    package enum Setting: Equatable, Sendable {
        case text(String)
        case environment(String)
        case file(String)
    }

    package static let idColumn = 0
    package static let timeColumn = 1
    /// Longest entity id, tenant's name and kept text, in bytes.
    package static let entityBytesMax = 64
    package static let tenantBytesMax = 32
    package static let textBytesMax = 1024
    package static let idBytesMax = 128
    package static let dimensionMax = 1536
}
