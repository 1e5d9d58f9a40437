import Changes

/// What one batch touched and how it was before: until the log says what became of the batch, it can be taken back.
@safe final class BatchJournal {
    @safe struct Touched {
        var table: UInt16
        var record: UnsafeMutableRawPointer
    }

    @safe struct Entry {
        var table: UInt16
        /// `Self.head` for the record's head.
        var level: UInt8
        var partition: UInt16
        var slot: UInt32
        var record: UnsafeMutableRawPointer
        /// Of the saved bytes.
        var offset: Int

        static let head: UInt8 = 255
    }

    /// The flag that records touched by this batch carry.
    let flag: RecordHead.Flags
    var touched: [Touched] = []
    var entries: [Entry] = []
    var bytes = ByteWriter(capacity: 1 << 20)
    /// What its changes will take in the log.
    var changeBytes = 0
    /// Its tiles are encoded: the records' dirty bits are free for the next batch.
    var staged = false

    init(flag: RecordHead.Flags) { self.flag = flag }

    func removeAll() {
        touched.removeAll(keepingCapacity: true)
        entries.removeAll(keepingCapacity: true)
        bytes.removeAll()
        changeBytes = 0
        staged = false
    }
}
