import CZlib
import Glibc

/// A file that cannot be read, or not to its end.
struct InputError: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

/// The bytes of a file, plain or gzip (several members in a row too), in one buffer that readers move through. `-` is
/// standard input. A byte order mark at the beginning is skipped. Blocking; not thread-safe.
@safe final class InputBytes {
    static let recordBytesMax = 16 << 20

    let path: String
    /// What was read and not yet taken: `buffer[start..<end]`.
    private(set) var buffer = [UInt8](repeating: 0, count: 1 << 18)
    var start = 0
    private(set) var end = 0
    private let file: gzFile
    private let bytesOnDisk: Int

    init(path: String) throws {
        self.path = path
        let descriptor = unsafe path == "-" ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw InputError("\(path) cannot be read: \(unsafe String(cString: strerror(errno)))")
        }
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0, status.st_mode & S_IFMT != S_IFDIR else {
            close(descriptor)
            throw InputError("\(path) is no file; name a file, or - for standard input")
        }
        bytesOnDisk = status.st_mode & S_IFMT == S_IFREG ? Int(status.st_size) : 0
        guard let file = unsafe gzdopen(descriptor, "r") else {
            close(descriptor)
            throw InputError("\(path) cannot be read: out of memory")
        }
        unsafe self.file = file
        unsafe gzbuffer(file, 1 << 17)
        while end < 3, try fill() {}
        if buffer.starts(with: [0xEF, 0xBB, 0xBF]), end >= 3 { start = 3 }
    }

    deinit { unsafe gzclose_r(file) }

    /// Part of the file that was read, 0 to 1; `nil` where its size is not known.
    var fraction: Double? {
        guard bytesOnDisk > 0 else { return nil }
        return unsafe min(1, Double(gzoffset(file)) / Double(bytesOnDisk))
    }

    /// Reads more behind `end`; `start` may move to 0. Returns whether there was more.
    func fill() throws -> Bool {
        if start > 0 {
            if start < end { buffer.replaceSubrange(0..<(end - start), with: buffer[start..<end]) }
            end -= start
            start = 0
        }
        if end == buffer.count {
            guard end < Self.recordBytesMax else {
                throw InputError(
                    "\(path) has a record of more than \(Self.recordBytesMax >> 20) MiB; is a quote left open?")
            }
            buffer.append(contentsOf: repeatElement(0, count: buffer.count))
        }
        let offset = end
        let got = unsafe buffer.withUnsafeMutableBytes { bytes in
            unsafe gzread(file, bytes.baseAddress! + offset, UInt32(min(bytes.count - offset, 1 << 20)))
        }
        var code: Int32 = 0
        let message = unsafe gzerror(file, &code)
        // A file that is cut off gives its bytes first and its error afterwards.
        guard got >= 0, code == Z_OK || code == Z_STREAM_END || got > 0 else {
            var reason = unsafe code == Z_ERRNO ? String(cString: strerror(errno)) : String(cString: message!)
            // zlib puts its own name of the file before the reason.
            if reason.hasPrefix("<"), let end = reason.firstRange(of: ": ") {
                reason = String(reason[end.upperBound...])
            }
            throw InputError("\(path) cannot be read to its end: \(reason)")
        }
        end += Int(got)
        return got > 0
    }

    /// The first byte that is no blank, without taking it.
    func peek() throws -> UInt8? {
        var at = start
        while true {
            while at < end {
                if ![9, 10, 13, 32].contains(buffer[at]) { return buffer[at] }
                at += 1
            }
            let offset = at - start
            guard try fill() else { return nil }
            at = start + offset
        }
    }
}

/// Lines of a file, without LF or CR LF. The bytes are lent until the next call.
final class InputLines {
    /// Number of the line that was read last, from 1.
    private(set) var number = 0
    let bytes: InputBytes

    init(_ bytes: InputBytes) { self.bytes = bytes }

    /// Hands the next line to `use`; `nil` at the end of the file.
    func next<Result>(_ use: (UnsafeRawBufferPointer) throws -> Result) throws -> Result? {
        var searched = 0
        var length: Int?
        while true {
            let from = bytes.start + searched
            length = unsafe bytes.buffer.withUnsafeBytes { all -> Int? in
                guard from < bytes.end, let found = unsafe memchr(all.baseAddress! + from, 10, bytes.end - from) else {
                    return nil
                }
                return unsafe UnsafeRawPointer(found) - (all.baseAddress! + bytes.start)
            }
            if length != nil { break }
            searched = bytes.end - bytes.start
            if try !bytes.fill() { break }
        }
        let hasEnd = length != nil
        let line = length ?? bytes.end - bytes.start
        guard hasEnd || line > 0 else { return nil }
        number += 1
        let start = bytes.start
        bytes.start += line + (hasEnd ? 1 : 0)
        return try unsafe bytes.buffer.withUnsafeBytes { all in
            let trimmed = unsafe line > 0 && all[start + line - 1] == 13 ? line - 1 : line
            return unsafe try use(UnsafeRawBufferPointer(rebasing: all[start..<(start + trimmed)]))
        }
    }
}
