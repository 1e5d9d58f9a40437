internal import Glibc

/// One open file, which is closed with it. One thread uses it at a time.
struct FileDescriptor: ~Copyable {
    private let number: Int32
    private let path: String

    init(reading path: String) throws(SnapshotFileError) { try self.init(path, O_RDONLY, "open", mode: 0) }

    /// A new file that must not be there yet, or one that is added to.
    init(writing path: String, new: Bool, mode: UInt32 = 0o644) throws(SnapshotFileError) {
        try self.init(path, O_WRONLY | O_CREAT | (new ? O_EXCL : O_APPEND), new ? "create" : "open", mode: mode)
    }

    /// A folder, to sync it.
    init(folder path: String) throws(SnapshotFileError) { try self.init(path, O_RDONLY | O_DIRECTORY, "open", mode: 0) }

    private init(_ path: String, _ flags: Int32, _ operation: String, mode: UInt32) throws(SnapshotFileError) {
        number = unsafe open(path, flags | O_CLOEXEC, mode)
        self.path = path
        guard number >= 0 else { throw SnapshotFileError(operation, path, errno: errno) }
    }

    deinit { if number >= 0 { close(number) } }

    /// Returns how many bytes came; 0 at the end.
    borrowing func read(
        into buffer: UnsafeMutableRawBufferPointer, at offset: Int? = nil
    ) throws(SnapshotFileError) -> Int {
        while true {
            let count =
                if let offset { unsafe pread(number, buffer.baseAddress, buffer.count, off_t(offset)) } else {
                    unsafe Glibc.read(number, buffer.baseAddress, buffer.count)
                }
            if count >= 0 { return count }
            guard errno == EINTR else { throw SnapshotFileError("read", path, errno: errno) }
        }
    }

    borrowing func write(_ bytes: UnsafeRawBufferPointer) throws(SnapshotFileError) {
        var written = 0
        while written < bytes.count {
            let count = unsafe Glibc.write(number, bytes.baseAddress.map { unsafe $0 + written }, bytes.count - written)
            if count >= 0 {
                written += count
            } else if errno != EINTR {
                throw SnapshotFileError("write", path, errno: errno)
            }
        }
    }

    /// What was written is on the disk when this returns.
    borrowing func sync() throws(SnapshotFileError) {
        guard fsync(number) == 0 else { throw SnapshotFileError("sync", path, errno: errno) }
    }
}
