import Service

/// Asks again what fails and passes by itself: brokers that are away, leaders that are being chosen.
struct Patience<Brokers: Cluster> {
    private let cluster: Brokers
    private let log: Log

    init(_ cluster: Brokers, _ log: Log) {
        self.cluster = cluster
        self.log = log
    }

    func with<Result>(_ what: String, _ partition: Int, _ body: () throws -> Result) throws -> Result {
        while true {
            do { return try body() } catch let error as any TransactionFailure
                where error.isRetriable || error.isTimeout
            {
                log.warning("kafka: again", ["what": what, "partition": partition, "because": error.description])
                try cluster.rest(microseconds: 50_000)
            }
        }
    }
}
