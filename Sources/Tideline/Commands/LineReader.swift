import Glibc
import Scoring

/// Lines of a file, read in pieces; CR before LF is taken off. A line is at most 16 MiB.
final class LineReader {
    static let lineBytesMax = 16 << 20

    /// Number of the line that was read last, from 1.
    private(set) var number = 0

    private let file: Int32
    private var piece = [UInt8](repeating: 0, count: 1 << 16)
    private var at = 0
    private var end = 0

    init(path: String) throws(ModelError) {
        file = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else {
            throw ModelError(.unreadable, "\(path) can't be read: \(unsafe String(cString: strerror(errno)))")
        }
    }

    deinit { close(file) }

    /// The next line without its end, or nil at the end of the file.
    func next() throws(ModelError) -> [UInt8]? {
        var line: [UInt8] = []
        var any = false
        while true {
            if at == end, try !fill() { break }
            any = true
            if let newline = piece[at..<end].firstIndex(of: 10) {
                line.append(contentsOf: piece[at..<newline])
                at = newline + 1
                break
            }
            line.append(contentsOf: piece[at..<end])
            at = end
            guard line.count <= Self.lineBytesMax else {
                throw ModelError(.unreadable, "line \(number + 1) is longer than \(Self.lineBytesMax) bytes")
            }
        }
        guard any else { return nil }
        number += 1
        if line.last == 13 { line.removeLast() }
        return line
    }

    private func fill() throws(ModelError) -> Bool {
        while true {
            let got = unsafe read(file, &piece, piece.count)
            if got < 0, errno == EINTR { continue }
            guard got >= 0 else {
                throw ModelError(.unreadable, "the rows can't be read: \(unsafe String(cString: strerror(errno)))")
            }
            at = 0
            end = got
            return got > 0
        }
    }
}

/// Collects lines for stdout and writes them in large pieces.
final class OutputBuffer {
    private var bytes: [UInt8] = []

    func append(_ byte: UInt8) { bytes.append(byte) }

    func append(_ text: String) { bytes.append(contentsOf: text.utf8) }

    func endLine() throws(ModelError) {
        bytes.append(10)
        if bytes.count >= 1 << 16 { try flush() }
    }

    func flush() throws(ModelError) {
        var done = 0
        while done < bytes.count {
            let wrote = unsafe bytes.withUnsafeBufferPointer { pending in
                unsafe write(STDOUT_FILENO, pending.baseAddress! + done, pending.count - done)
            }
            if wrote < 0, errno == EINTR { continue }
            guard wrote > 0 else { throw ModelError(.unreadable, "stdout can't be written") }
            done += wrote
        }
        bytes.removeAll(keepingCapacity: true)
    }
}
