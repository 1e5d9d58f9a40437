/// What RocksDB holds in memory for one store, in bytes. The parts do not overlap: together they are the whole of it, but
/// for buffers of flushes and merges under way.
package struct StoreMemory: Equatable, Sendable {
    /// Writes that no file holds yet: the memtable that fills, and those that wait to be flushed.
    package var memtables: UInt64 = 0
    /// Memtables that were flushed and live on because an iterator still reads them.
    package var memtablesRead: UInt64 = 0
    /// Of open files, outside the cache.
    package var files: UInt64 = 0
    /// Blocks that the cache could give up.
    package var cache: UInt64 = 0
    /// Blocks in use, and the index and filter blocks of the newest files.
    package var cachePinned: UInt64 = 0

    package init() {}

    /// Each part under its name as a metric's label.
    package var parts: [(name: String, bytes: UInt64)] {
        [
            ("memtables", memtables), ("memtables_read", memtablesRead), ("files", files), ("cache", cache),
            ("cache_pinned", cachePinned),
        ]
    }

    package var total: UInt64 { parts.reduce(0) { $0 + $1.bytes } }

    package static let metric = "tideline_store_memory_bytes"
    package static let help = "Memory of RocksDB, by store and part."
}
