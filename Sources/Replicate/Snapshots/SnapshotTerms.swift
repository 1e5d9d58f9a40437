import Changes

/// What a region demands of a snapshot before it fetches it. A pure function: what does not fit is refused by its reason.
package struct SnapshotTerms: Equatable, Sendable {
    package var pipeline: String
    package var schema: UInt32
    package var model: UInt64
    package var dimensions: Int
    package var metric: String
    package var partitions: Int
    /// The log that the region follows; `nil` before it knows one: then any is taken.
    package var lineage: Lineage?
    /// What is served now: of its lineage only higher numbers are taken.
    package var newerThan: SnapshotName?
    /// The least recall of a segment.
    package var recallMin: Float = 0
    /// What the region would fetch.
    package var parts = SnapshotParts.all
    package var bytesMax = 64 << 30

    package init(
        pipeline: String, schema: UInt32, model: UInt64, dimensions: Int, metric: String, partitions: Int
    ) {
        self.pipeline = pipeline
        self.schema = schema
        self.model = model
        self.dimensions = dimensions
        self.metric = metric
        self.partitions = partitions
    }

    package func check(_ manifest: SnapshotManifest) throws(SnapshotRefusal) {
        guard manifest.pipeline == pipeline, manifest.schema == schema else {
            throw SnapshotRefusal(
                .pipeline,
                "of pipeline \(manifest.pipeline) with schema \(manifest.schema), not \(pipeline) with \(schema)")
        }
        if let lineage, manifest.lineage != lineage {
            throw SnapshotRefusal(.lineage, "of lineage \(manifest.lineage); this region follows \(lineage)")
        }
        guard manifest.positions.count == partitions else {
            throw SnapshotRefusal(.lineage, "of \(manifest.positions.count) partitions; the log has \(partitions)")
        }
        guard manifest.model == model else {
            let (theirs, ours) = (String(manifest.model, radix: 16), String(model, radix: 16))
            throw SnapshotRefusal(.model, "of model \(theirs); this region has \(ours)")
        }
        if !manifest.segments.isEmpty, manifest.dimensions != dimensions || manifest.metric != metric {
            throw SnapshotRefusal(
                .dimension, "\(manifest.dimensions) dimensions by \(manifest.metric), not \(dimensions) by \(metric)")
        }
        if let newerThan, newerThan.lineage == manifest.lineage, manifest.number <= newerThan.number {
            throw SnapshotRefusal(.older, "number \(manifest.number); \(newerThan.number) is here")
        }
        let bytes = manifest.bytes(of: parts)
        guard bytes <= bytesMax else {
            throw SnapshotRefusal(.tooLarge, "\(bytes) bytes; the limit is \(bytesMax)")
        }
        if let worst = manifest.segments.min(by: { $0.recall < $1.recall }), worst.recall < recallMin {
            throw SnapshotRefusal(
                .recall,
                "the segment of `\(worst.tenant)` finds \(worst.recall) of the true neighbours, under \(recallMin)")
        }
    }
}
