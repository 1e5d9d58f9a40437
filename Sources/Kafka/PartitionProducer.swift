import Core
import Service
import Transactions

/// One of a partition's two transactional producers: what a transaction holds, and into which topics it goes.
///
/// Not thread-safe: the thread that commits the partition uses it.
final class PartitionProducer: TransactionalClient, Sendable {
    private let configuration: KafkaConfiguration
    private let partition: Int
    private let producer: TransactionalProducer

    init(_ configuration: KafkaConfiguration, partition: Int, id: Int, log: Log) throws(KafkaError) {
        self.configuration = configuration
        self.partition = partition
        let hooks = ClientHooks()
        hooks.log = log
        let name = configuration.transactionalIds(partition: partition)[id]
        producer = try TransactionalProducer(
            configuration.isTransactional
                ? configuration.transactional(id: name) : configuration.acknowledged(id: name), hooks: hooks)
    }

    func initialize(milliseconds: Int32) throws(KafkaError) {
        if configuration.isTransactional { try producer.initialize(milliseconds: milliseconds) }
    }

    /// Cold metadata costs the first transaction a second.
    func prepare() throws(KafkaError) {
        for topic in [configuration.scores, configuration.changes, configuration.deadLetters] {
            try producer.warm(topic)
        }
    }

    func begin() throws(KafkaError) { if configuration.isTransactional { try producer.begin() } }

    func commit(milliseconds: Int32) throws(KafkaError) {
        guard configuration.isTransactional else { return try producer.flush(milliseconds: milliseconds) }
        try producer.commit(milliseconds: milliseconds)
    }

    func abort(milliseconds: Int32) throws(KafkaError) { try producer.abort(milliseconds: milliseconds) }

    func endOpen(milliseconds: Int32) throws(KafkaError) {
        guard configuration.isTransactional else { return }
        try producer.begin()
        let key = StaticString("barrier")
        try unsafe producer.produce(
            configuration.changes, partition,
            key: UnsafeRawBufferPointer(start: key.utf8Start, count: key.utf8CodeUnitCount),
            value: UnsafeRawBufferPointer(start: nil, count: 0))
        try producer.commit(milliseconds: milliseconds)
    }

    func produce(_ commit: StagedCommit) throws(KafkaError) {
        let ends = unsafe commit.scoreEnds
        let (lines, entities) = unsafe (commit.scores, commit.entities)
        if ends.count > 0 {
            try unsafe producer.produce(configuration.scores, partition, count: ends.count) { index in
                let before = unsafe index == 0 ? ScoreEnds(line: 0, entity: 0) : ends[index - 1]
                let end = unsafe ends[index]
                // Without the line's end: a record is one line.
                return unsafe (
                    UnsafeRawBufferPointer(rebasing: entities[Int(before.entity)..<Int(end.entity)]),
                    UnsafeRawBufferPointer(rebasing: lines[Int(before.line)..<(Int(end.line) - 1)])
                )
            }
        }
        var seq = commit.seq.littleEndian
        try unsafe withUnsafeBytes(of: &seq) { (key) throws(KafkaError) in
            try unsafe producer.produce(configuration.changes, partition, key: key, value: commit.changes)
            if unsafe commit.deadLetters.count > 0 {
                try unsafe producer.produce(configuration.deadLetters, partition, key: key, value: commit.deadLetters)
            }
        }
    }
}
