internal import CWindows
import Changes

extension FeatureState {
    /// An entity's last event time and its window features as of `time`; `nil` for one that was never seen.
    ///
    /// The features are those of the row that need nothing but the entity itself, under the row's own names.
    package func summary(
        entity: Int, id: String, tenant: Int, time: Int64
    ) -> (last: Int64, features: [(name: String, value: Float)])? {
        var id = id
        let record: UnsafeMutableRawPointer? = id.withUTF8 { utf8 in
            guard utf8.count <= Pipeline.entityBytesMax else { return nil }
            let bytes = UnsafeRawBufferPointer(utf8)
            let key = unsafe key(tenant: tenant, kind: layouts[entity].kind, id: bytes)
            guard entity == 0 else { return unsafe findStored(UInt16(partitions + entity - 1), key) }
            return unsafe findPrimary(bytes, key)?.record
        }
        guard let record = unsafe record else { return nil }
        let layout = layouts[entity]
        unsafe readWindows(record, layout, entity: entity, time: time)
        var features: [(String, Float)] = []
        features.reserveCapacity(pipeline.features.count)
        for (index, feature) in pipeline.features.enumerated() {
            switch feature {
            case .window(entity, let window, let measure, let statistic):
                unsafe features.append(
                    (
                        pipeline.featureNames[index],
                        FeatureMath.statistic(statistic, windows(of: entity) + window, measure: measure)
                    ))
            case .distinct(entity, let window, let distinct):
                unsafe features.append(
                    (
                        pipeline.featureNames[index],
                        FeatureMath.distinct(windows(of: entity) + window, distinct: distinct)
                    ))
            default: continue
            }
        }
        return unsafe (RecordHead.last(record), features)
    }

    /// The partition whose events a primary entity's are: where it was seen, else the one that our own hash gives.
    package func home(of decoder: EventDecoder, tenant: Int) -> Int {
        let id = unsafe decoder.primaryEntity
        return unsafe findPrimary(id, key(tenant: tenant, kind: layouts[0].kind, id: id))?.partition
            ?? Changes.partition(of: id, count: partitions)
    }

    /// Producers of other people's put an entity where their own hash says; ours is tried first.
    private func findPrimary(
        _ id: UnsafeRawBufferPointer, _ key: UnsafeRawBufferPointer
    ) -> (partition: Int, record: UnsafeMutableRawPointer)? {
        let own = unsafe Changes.partition(of: id, count: partitions)
        for step in 0..<partitions {
            let partition = (own + step) % partitions
            if let found = unsafe findStored(UInt16(partition), key) { return unsafe (partition, found) }
        }
        return nil
    }
}
