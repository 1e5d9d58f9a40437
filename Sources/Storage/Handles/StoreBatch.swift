internal import CRocksDB

/// Puts and deletes that a store takes as one atomic step. Reused after `clear`.
@safe package struct StoreBatch: ~Copyable {
    let handle: OpaquePointer

    package init() { unsafe handle = unsafe rocksdb_writebatch_create() }

    deinit { unsafe rocksdb_writebatch_destroy(handle) }

    package var count: Int { unsafe Int(rocksdb_writebatch_count(handle)) }

    package func clear() { unsafe rocksdb_writebatch_clear(handle) }

    package func put(_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
        unsafe rocksdb_writebatch_put(
            handle, key.baseAddress?.assumingMemoryBound(to: CChar.self), key.count,
            value.baseAddress?.assumingMemoryBound(to: CChar.self), value.count)
    }

    package func put(_ key: [UInt8], _ value: [UInt8]) {
        unsafe key.withUnsafeBytes { key in unsafe value.withUnsafeBytes { unsafe put(key, $0) } }
    }

    package func delete(_ key: UnsafeRawBufferPointer) {
        unsafe rocksdb_writebatch_delete(handle, key.baseAddress?.assumingMemoryBound(to: CChar.self), key.count)
    }
}
