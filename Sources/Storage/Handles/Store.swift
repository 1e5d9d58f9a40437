internal import CRocksDB
import Changes

/// One RocksDB database: a view of a log, or the embedded log itself.
///
/// There is one column family; kinds of key are told apart by prefix (RocksDB 7.8.3 can lose a family in an atomic
/// flush without its log). Reads, writes and iterators may be used from any thread. Blocking.
///
/// `@unchecked Sendable`: "a single DB object may be shared by several threads" (rocksdb/db.h).
@safe package final class Store: @unchecked Sendable {
    /// How a store is opened.
    package struct Configuration: Sendable {
        package enum Mode: Sendable {
            case readWrite
            /// Follows a store that another process writes; its own notes go to `scratch`. `catchUp` moves it on.
            case secondary(scratch: String)
        }

        package var mode = Mode.readWrite
        /// A view has no log of its own: the changelog is its log, and a crash leaves an older, consistent prefix.
        package var hasLog = false
        package var blockCacheBytes = 64 << 20
        package var writeBufferBytes = 64 << 20
        /// Asked before each write, which fails where it says so, as on a full disk: the simulation's alone.
        package var isFull: (@Sendable () -> Bool)?

        package init() {}
    }

    let handle: OpaquePointer
    private let options: OpaquePointer
    private let cache: OpaquePointer
    private let plainWrites: OpaquePointer
    private let syncedWrites: OpaquePointer
    let reads: OpaquePointer
    package let path: String
    private let isFull: (@Sendable () -> Bool)?

    package init(path: String, _ configuration: Configuration = Configuration()) throws(StoreError) {
        self.path = path
        isFull = configuration.isFull
        unsafe cache = unsafe Self.makeCache(configuration.blockCacheBytes)
        unsafe options = unsafe Self.makeOptions(configuration, cache: cache)
        unsafe plainWrites = unsafe rocksdb_writeoptions_create()
        unsafe rocksdb_writeoptions_disable_WAL(plainWrites, configuration.hasLog ? 0 : 1)
        unsafe syncedWrites = unsafe rocksdb_writeoptions_create()
        if configuration.hasLog { unsafe rocksdb_writeoptions_set_sync(syncedWrites, 1) }
        unsafe rocksdb_writeoptions_disable_WAL(syncedWrites, configuration.hasLog ? 0 : 1)
        unsafe reads = unsafe rocksdb_readoptions_create()
        var error: UnsafeMutablePointer<CChar>?
        let opened: OpaquePointer? =
            switch configuration.mode {
            case .readWrite: unsafe rocksdb_open(options, path, &error)
            case .secondary(let scratch): unsafe rocksdb_open_as_secondary(options, path, scratch, &error)
            }
        guard let opened = unsafe opened else {
            let message = unsafe Self.take(&error) ?? "unknown"
            unsafe rocksdb_readoptions_destroy(reads)
            unsafe rocksdb_writeoptions_destroy(plainWrites)
            unsafe rocksdb_writeoptions_destroy(syncedWrites)
            unsafe rocksdb_options_destroy(options)
            unsafe rocksdb_cache_destroy(cache)
            throw StoreError(operation: "open \(path)", message: message)
        }
        unsafe handle = unsafe opened
    }

    deinit {
        unsafe rocksdb_close(handle)
        unsafe rocksdb_readoptions_destroy(reads)
        unsafe rocksdb_writeoptions_destroy(plainWrites)
        unsafe rocksdb_writeoptions_destroy(syncedWrites)
        unsafe rocksdb_options_destroy(options)
        unsafe rocksdb_cache_destroy(cache)
    }

    /// Writes the batch as one atomic step; with `synced`, it is on the disk when this returns (stores with a log only).
    package func write(_ batch: borrowing StoreBatch, synced: Bool = false) throws(StoreError) {
        if let isFull, isFull() { throw StoreError(operation: "write \(path)", message: "no space left on device") }
        var error: UnsafeMutablePointer<CChar>?
        unsafe rocksdb_write(handle, synced ? syncedWrites : plainWrites, batch.handle, &error)
        if let message = unsafe Self.take(&error) { throw StoreError(operation: "write \(path)", message: message) }
    }

    /// Lends the value of a key without copying it; `nil` where there is none.
    package func get<Result>(
        _ key: UnsafeRawBufferPointer, _ use: (UnsafeRawBufferPointer) throws -> Result
    ) throws -> Result? {
        var error: UnsafeMutablePointer<CChar>?
        let slice = unsafe rocksdb_get_pinned(
            handle, reads, key.baseAddress?.assumingMemoryBound(to: CChar.self), key.count, &error)
        if let message = unsafe Self.take(&error) { throw StoreError(operation: "read \(path)", message: message) }
        guard let slice = unsafe slice else { return nil }
        defer { unsafe rocksdb_pinnableslice_destroy(slice) }
        var length = 0
        let value = unsafe rocksdb_pinnableslice_value(slice, &length)
        return unsafe try use(UnsafeRawBufferPointer(start: value, count: length))
    }

    package func get<Result>(_ key: [UInt8], _ use: (UnsafeRawBufferPointer) throws -> Result) throws -> Result? {
        try unsafe key.withUnsafeBytes { try unsafe get($0, use) }
    }

    /// Moves a secondary on to what the writing process has written by now.
    package func catchUp() throws(StoreError) {
        var error: UnsafeMutablePointer<CChar>?
        unsafe rocksdb_try_catch_up_with_primary(handle, &error)
        if let message = unsafe Self.take(&error) { throw StoreError(operation: "follow \(path)", message: message) }
    }

    /// Puts what is in memory on the disk. A view without a log needs it before a planned stop.
    package func flush() throws(StoreError) {
        let options = unsafe rocksdb_flushoptions_create()
        defer { unsafe rocksdb_flushoptions_destroy(options) }
        unsafe rocksdb_flushoptions_set_wait(options, 1)
        var error: UnsafeMutablePointer<CChar>?
        unsafe rocksdb_flush(handle, options, &error)
        if let message = unsafe Self.take(&error) { throw StoreError(operation: "flush \(path)", message: message) }
    }

    /// Makes a consistent copy of the store in a folder that does not exist yet, by hard links where it can.
    package func checkpoint(to folder: String) throws(StoreError) {
        var error: UnsafeMutablePointer<CChar>?
        let checkpoint = unsafe rocksdb_checkpoint_object_create(handle, &error)
        if let message = unsafe Self.take(&error) {
            throw StoreError(operation: "checkpoint \(path)", message: message)
        }
        defer { unsafe rocksdb_checkpoint_object_destroy(checkpoint) }
        unsafe rocksdb_checkpoint_create(checkpoint, folder, 0, &error)
        if let message = unsafe Self.take(&error) {
            throw StoreError(operation: "checkpoint \(path)", message: message)
        }
    }

    /// What RocksDB holds in memory now. It takes the store's lock for a moment.
    package var memory: StoreMemory {
        var memory = StoreMemory()
        memory.memtables = property("rocksdb.cur-size-all-mem-tables")
        let allMemtables = property("rocksdb.size-all-mem-tables")
        memory.memtablesRead = allMemtables - min(memory.memtables, allMemtables)
        memory.files = property("rocksdb.estimate-table-readers-mem")
        memory.cachePinned = property("rocksdb.block-cache-pinned-usage")
        let cache = property("rocksdb.block-cache-usage")
        memory.cache = cache - min(memory.cachePinned, cache)
        return memory
    }

    /// A figure that RocksDB keeps; 0 where this RocksDB does not know it.
    private func property(_ name: String) -> UInt64 {
        var value: UInt64 = 0
        return unsafe rocksdb_property_int(handle, name, &value) == 0 ? value : 0
    }

    /// Reads and frees an error text of RocksDB.
    static func take(_ error: inout UnsafeMutablePointer<CChar>?) -> String? {
        guard let text = unsafe error else { return nil }
        defer {
            unsafe rocksdb_free(text)
            unsafe error = nil
        }
        return unsafe String(cString: text)
    }

    /// A cache of few shards: a block that is larger than its shard is never kept, and RocksDB's own choice would be 64
    /// shards of 1 MB.
    private static func makeCache(_ bytes: Int) -> OpaquePointer {
        let options = unsafe rocksdb_lru_cache_options_create()
        defer { unsafe rocksdb_lru_cache_options_destroy(options) }
        unsafe rocksdb_lru_cache_options_set_capacity(options, bytes)
        unsafe rocksdb_lru_cache_options_set_num_shard_bits(options, 3)
        return unsafe rocksdb_cache_create_lru_opts(options)
    }

    private static func makeOptions(_ configuration: Configuration, cache: OpaquePointer) -> OpaquePointer {
        let options = unsafe rocksdb_options_create()!
        unsafe rocksdb_options_set_create_if_missing(options, 1)
        unsafe rocksdb_options_set_compression(options, Int32(rocksdb_lz4_compression))
        unsafe rocksdb_options_set_write_buffer_size(options, configuration.writeBufferBytes)
        // All memtables together, whatever waits to be flushed.
        unsafe rocksdb_options_set_db_write_buffer_size(options, configuration.writeBufferBytes * 2)
        unsafe rocksdb_options_set_max_write_buffer_number(options, 3)
        unsafe rocksdb_options_set_max_background_jobs(options, 2)
        unsafe rocksdb_options_set_keep_log_file_num(options, 2)
        unsafe rocksdb_options_set_max_log_file_size(options, 1 << 20)
        // 4 MB were cleared at each opening, for notes of a few KB.
        unsafe rocksdb_options_set_manifest_preallocation_size(options, 64 << 10)
        unsafe rocksdb_options_set_info_log_level(options, 2)  // warnings
        unsafe rocksdb_options_set_max_open_files(
            options, { if case .secondary = configuration.mode { -1 } else { 512 } }())
        if configuration.hasLog {
            unsafe rocksdb_options_set_max_total_wal_size(options, UInt64(configuration.writeBufferBytes) * 4)
        }
        if configuration.hasLog {
            // A log's rows are written once and never change: files of like size are merged, so that a row is copied as
            // seldom as can be, and compressed when it is copied. (Levels would copy all that is there again and again:
            // each file spans all partitions. Blob files would spare the copies, but a secondary of RocksDB 7.8.3
            // crashes when its iterator reads them.)
            unsafe rocksdb_options_set_compaction_style(options, Int32(rocksdb_universal_compaction))
            unsafe rocksdb_options_set_level0_file_num_compaction_trigger(options, 8)
            unsafe rocksdb_options_set_min_level_to_compress(options, 1)
            let merging = unsafe rocksdb_universal_compaction_options_create()
            unsafe rocksdb_universal_compaction_options_set_size_ratio(merging, 20)
            unsafe rocksdb_universal_compaction_options_set_min_merge_width(merging, 4)
            unsafe rocksdb_options_set_universal_compaction_options(options, merging)
            unsafe rocksdb_universal_compaction_options_destroy(merging)
        }
        let table = unsafe rocksdb_block_based_options_create()
        unsafe rocksdb_block_based_options_set_block_cache(table, cache)
        // Index and filter blocks count against the cache: memory has one bound.
        unsafe rocksdb_block_based_options_set_cache_index_and_filter_blocks(table, 1)
        unsafe rocksdb_block_based_options_set_pin_l0_filter_and_index_blocks_in_cache(table, 1)
        // In parts of some KB, of which a read needs one: the whole filter of a 64 MB file of ids is larger than 1 MB, fell
        // out of the cache at once, and was read and checked again for each event (85 % of an edge's CPU, perf).
        unsafe rocksdb_block_based_options_set_index_type(
            table, Int32(rocksdb_block_based_table_index_type_two_level_index_search))
        unsafe rocksdb_block_based_options_set_partition_filters(table, 1)
        unsafe rocksdb_block_based_options_set_filter_policy(table, rocksdb_filterpolicy_create_bloom_full(10))
        unsafe rocksdb_options_set_block_based_table_factory(options, table)
        unsafe rocksdb_block_based_options_destroy(table)
        return unsafe options
    }
}
