internal import Glibc

/// A file of a snapshot, of the store or of a key could not be read or written.
package struct SnapshotFileError: Error, Equatable, Sendable, CustomStringConvertible {
    package let operation: String
    package let path: String
    package let message: String

    package init(_ operation: String, _ path: String, _ message: String) {
        self.operation = operation
        self.path = path
        self.message = message
    }

    init(_ operation: String, _ path: String, errno code: Int32) {
        self.init(operation, path, unsafe String(cString: strerror(code)))
    }

    package var description: String { path.isEmpty ? "\(operation): \(message)" : "\(operation) \(path): \(message)" }
}

/// One folder, and the ways in which its files come to be: whole or not at all.
struct Folder: Sendable {
    let path: String

    /// What a crash leaves of a file that was not finished.
    static let unfinished = ".unfinished"

    /// Makes the folder and those above it.
    init(making path: String) throws(SnapshotFileError) {
        self.path = path
        try Self.make(path)
    }

    init(_ path: String) { self.path = path }

    func path(of name: String) -> String { "\(path)/\(name)" }

    /// Writes a file whole: beside its place, synced, and moved there. A crash leaves the old one or the new one.
    func write(
        _ name: String, _ bytes: [UInt8], beforeRename: () throws -> Void = {}
    ) throws {
        let unfinished = path(of: "\(name).\(getpid())\(Self.unfinished)")
        try Self.remove(unfinished)
        try Self.create(unfinished, bytes, mode: 0o644)
        try beforeRename()
        guard try Self.move(unfinished, to: path(of: name)) else {
            throw SnapshotFileError("move to \(path(of: name))", unfinished, errno: EXDEV)
        }
        try sync()
    }

    /// The folder's own entries are on the disk when this returns.
    func sync() throws(SnapshotFileError) { try FileDescriptor(folder: path).sync() }

    /// Sorted; without `.` and `..`.
    func names() throws(SnapshotFileError) -> [String] {
        guard let folder = unsafe opendir(path) else { throw SnapshotFileError("list", path, errno: errno) }
        defer { unsafe closedir(folder) }
        var names: [String] = []
        while true {
            errno = 0
            guard let entry = unsafe readdir(folder) else { break }
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { tuple in
                unsafe tuple.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        guard errno == 0 else { throw SnapshotFileError("list", path, errno: errno) }
        return names.sorted()
    }

    /// The bytes that the disk has left for us.
    func available() throws(SnapshotFileError) -> Int {
        var figures = statvfs()
        guard unsafe statvfs(path, &figures) == 0 else { throw SnapshotFileError("measure", path, errno: errno) }
        return Int(clamping: figures.f_bavail) * Int(clamping: figures.f_frsize)
    }
}

extension Folder {
    private static func status(_ path: String) throws(SnapshotFileError) -> stat? {
        var status = stat()
        if unsafe stat(path, &status) == 0 { return status }
        guard errno == ENOENT || errno == ENOTDIR else { throw SnapshotFileError("look at", path, errno: errno) }
        return nil
    }

    /// The file's size; `nil` where there is none.
    static func size(ofFileAt path: String) throws(SnapshotFileError) -> Int? {
        guard let status = try status(path), status.st_mode & S_IFMT == S_IFREG else { return nil }
        return Int(status.st_size)
    }

    static func mode(ofFileAt path: String) throws(SnapshotFileError) -> UInt32 {
        guard let status = try status(path) else { throw SnapshotFileError("open", path, errno: ENOENT) }
        return status.st_mode & 0o777
    }

    static func isFolder(_ path: String) throws(SnapshotFileError) -> Bool {
        try status(path).map { $0.st_mode & S_IFMT == S_IFDIR } ?? false
    }

    static func read(_ path: String, bytesMax: Int) throws -> [UInt8] {
        let file = try FileDescriptor(reading: path)
        guard let size = try size(ofFileAt: path) else { throw SnapshotFileError("read", path, "it is no file") }
        guard size <= bytesMax else { throw SnapshotFileError("read", path, "\(size) bytes; at most \(bytesMax)") }
        var bytes = [UInt8](repeating: 0, count: size)
        var count = 0
        while count < size {
            let read = try unsafe bytes.withUnsafeMutableBytes {
                try unsafe file.read(into: UnsafeMutableRawBufferPointer(rebasing: $0[count...]))
            }
            guard read > 0 else { break }
            count += read
        }
        return Array(bytes.prefix(count))
    }

    /// `nil` where there is no file.
    static func readIfThere(_ path: String, bytesMax: Int) throws -> [UInt8]? {
        do {
            return try read(path, bytesMax: bytesMax)
        } catch {
            // It may have gone between two looks: what counts is whether it is there now.
            if try size(ofFileAt: path) == nil { return nil }
            throw error
        }
    }

    /// Writes a new file and syncs it; one that is there is never overwritten.
    static func create(_ path: String, _ bytes: [UInt8], mode: UInt32) throws {
        let file = try FileDescriptor(writing: path, new: true, mode: mode)
        try unsafe bytes.withUnsafeBytes { try unsafe file.write($0) }
        try file.sync()
    }

    /// The folder in which a file lies.
    static func around(_ path: String) -> Folder {
        guard let slash = path.lastIndex(of: "/") else { return Folder(".") }
        return Folder(slash == path.startIndex ? "/" : String(path[..<slash]))
    }

    static func sync(_ path: String) throws(SnapshotFileError) { try FileDescriptor(reading: path).sync() }

    static func make(_ path: String) throws(SnapshotFileError) {
        if try isFolder(path) { return }
        if let slash = path.lastIndex(of: "/"), slash != path.startIndex { try make(String(path[..<slash])) }
        guard unsafe mkdir(path, 0o755) == 0 || errno == EEXIST else {
            throw SnapshotFileError("make the folder", path, errno: errno)
        }
    }

    /// Moves a file in one step, where both places are on one disk: `false` where they are not.
    static func move(_ path: String, to target: String) throws(SnapshotFileError) -> Bool {
        if unsafe rename(path, target) == 0 { return true }
        guard errno == EXDEV else { throw SnapshotFileError("move to \(target)", path, errno: errno) }
        return false
    }

    /// Returns whether it was there.
    @discardableResult
    static func remove(_ path: String) throws(SnapshotFileError) -> Bool {
        if unsafe unlink(path) == 0 { return true }
        guard errno == ENOENT else { throw SnapshotFileError("remove", path, errno: errno) }
        return false
    }

    /// Another name for the file, where it can have one: `false` across disks and where the disk has no links.
    static func link(_ path: String, to target: String) throws(SnapshotFileError) -> Bool {
        if unsafe Glibc.link(path, target) == 0 { return true }
        switch errno {
        case EXDEV, EPERM, EMLINK, EOPNOTSUPP: return false
        default: throw SnapshotFileError("link to \(target)", path, errno: errno)
        }
    }

    /// Copies to a file that is not there yet, synced.
    static func copy(_ path: String, to target: String) throws {
        let source = try FileDescriptor(reading: path)
        let copy = try FileDescriptor(writing: target, new: true)
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        while true {
            let count = try unsafe buffer.withUnsafeMutableBytes { try unsafe source.read(into: $0) }
            guard count > 0 else { break }
            try unsafe buffer.withUnsafeBytes { try unsafe copy.write(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
        }
        try copy.sync()
    }
}
