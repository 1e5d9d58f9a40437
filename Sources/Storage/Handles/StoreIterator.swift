internal import CRocksDB

/// A walk over a store's keys in order, over the state at its making. Closed when it goes out of scope: an open
/// iterator pins memory and files, so it never outlives a request.
@safe package struct StoreIterator: ~Copyable {
    private let handle: OpaquePointer
    private let store: Store

    package init(_ store: Store) {
        self.store = store
        unsafe handle = unsafe rocksdb_create_iterator(store.handle, store.reads)
    }

    deinit { unsafe rocksdb_iter_destroy(handle) }

    package var isValid: Bool { unsafe rocksdb_iter_valid(handle) != 0 }

    /// Moves to the first key at or after `key`.
    package func seek(_ key: [UInt8]) { unsafe key.withUnsafeBytes { unsafe seek($0) } }

    package func seek(_ key: UnsafeRawBufferPointer) {
        unsafe rocksdb_iter_seek(handle, key.baseAddress?.assumingMemoryBound(to: CChar.self), key.count)
    }

    /// Moves to the last key at or before `key`.
    package func seekBack(_ key: [UInt8]) { unsafe key.withUnsafeBytes { unsafe seekBack($0) } }

    package func seekBack(_ key: UnsafeRawBufferPointer) {
        unsafe rocksdb_iter_seek_for_prev(handle, key.baseAddress?.assumingMemoryBound(to: CChar.self), key.count)
    }

    package func next() { unsafe rocksdb_iter_next(handle) }

    package func previous() { unsafe rocksdb_iter_prev(handle) }

    /// Valid until the iterator moves.
    package var key: UnsafeRawBufferPointer {
        var length = 0
        let bytes = unsafe rocksdb_iter_key(handle, &length)
        return unsafe UnsafeRawBufferPointer(start: bytes, count: length)
    }

    /// Valid until the iterator moves.
    package var value: UnsafeRawBufferPointer {
        var length = 0
        let bytes = unsafe rocksdb_iter_value(handle, &length)
        return unsafe UnsafeRawBufferPointer(start: bytes, count: length)
    }

    /// Throws where the walk ended for another reason than the last key.
    package func check() throws(StoreError) {
        var error: UnsafeMutablePointer<CChar>?
        unsafe rocksdb_iter_get_error(handle, &error)
        if let message = unsafe Store.take(&error) {
            throw StoreError(operation: "iterate \(store.path)", message: message)
        }
    }

    /// Visits the keys that begin with `prefix`, in order, while `visit` says so.
    package func forEach(
        prefix: [UInt8], _ visit: (_ key: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) throws -> Bool
    ) throws {
        seek(prefix)
        while isValid, unsafe key.starts(with: prefix) {
            guard try unsafe visit(key, value) else { return }
            next()
        }
        try check()
    }
}
