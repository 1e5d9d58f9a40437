import Foundation

/// The rows of a file of vectors: NumPy's `.npy` (format 1 to 3; `<f4` or `<f8`, in C order, two dimensions) or `.fvecs`
/// (each row its dimension as an Int32, then Float32s), plain or gzip.
final class VectorFile {
    enum Layout { case npy, fvecs }

    let bytes: InputBytes
    private let layout: Layout
    /// Numbers of a row; 0 before the first row of an `.fvecs` file.
    private(set) var dimension = 0
    private var rowsLeft = Int.max
    private var isDouble = false
    private(set) var row: [Float] = []

    private static let magic: [UInt8] = [0x93] + Array("NUMPY".utf8)
    private static let dimensionMax = 1 << 16

    /// What a file is, by its first bytes or its name; `nil` where it holds no vectors.
    static func layout(of bytes: InputBytes) throws -> Layout? {
        while bytes.end - bytes.start < magic.count { if try !bytes.fill() { break } }
        if bytes.buffer[bytes.start..<bytes.end].starts(with: magic) { return .npy }
        let name = bytes.path.hasSuffix(".gz") ? String(bytes.path.dropLast(3)) : bytes.path
        return name.hasSuffix(".fvecs") ? .fvecs : nil
    }

    init(_ bytes: InputBytes, _ layout: Layout) throws {
        self.bytes = bytes
        self.layout = layout
        if layout == .npy { try readHeader() }
    }

    /// Reads the next vector into `row`; says whether there was one.
    func next() throws -> Bool {
        guard rowsLeft > 0 else { return false }
        if layout == .fvecs {
            guard let head = try take(4, mayEnd: true) else { return false }
            let count = Int(Int32(littleEndian: load(head, as: Int32.self)))
            guard count > 0, count <= Self.dimensionMax, dimension == 0 || count == dimension else {
                throw InputError("\(bytes.path): a row says that it has \(count) numbers; is it an .fvecs file?")
            }
            dimension = count
        }
        let width = isDouble ? 8 : 4
        guard let data = try take(dimension * width, mayEnd: false) else { return false }
        row.removeAll(keepingCapacity: true)
        for index in 0..<dimension {
            let at = data[(data.startIndex + index * width)...].prefix(width)
            row.append(
                isDouble
                    ? Float(Double(bitPattern: UInt64(littleEndian: load(at, as: UInt64.self))))
                    : Float(bitPattern: UInt32(littleEndian: load(at, as: UInt32.self))))
        }
        rowsLeft -= 1
        return true
    }

    private func readHeader() throws {
        guard let head = try take(8, mayEnd: false), let version = head.dropFirst(6).first, (1...3).contains(version),
            let size = try take(version == 1 ? 2 : 4, mayEnd: false)
        else { throw InputError("\(bytes.path) is an .npy file of a format that is not known") }
        let length = size.reversed().reduce(0) { $0 << 8 | Int($1) }
        guard length <= 1 << 16, let text = try take(length, mayEnd: false) else {
            throw InputError("\(bytes.path) has a header that is too long")
        }
        let header = String(decoding: text, as: UTF8.self)
        guard let type = header.firstMatch(of: /'descr':\s*'([^']*)'/)?.output.1,
            let shape = header.firstMatch(of: /'shape':\s*\((\d+),\s*(\d+)\)/)?.output,
            let rows = Int(shape.1), let columns = Int(shape.2), (1...Self.dimensionMax).contains(columns)
        else {
            throw InputError("\(bytes.path) holds no table of vectors; its shape must be (rows, dimension)")
        }
        guard type == "<f4" || type == "<f8" else {
            throw InputError("\(bytes.path) holds \(type); save it as float32: `np.save(name, a.astype('<f4'))`")
        }
        guard header.contains(/'fortran_order':\s*False/) else {
            throw InputError("\(bytes.path) is in column order; save `np.ascontiguousarray(a)`")
        }
        isDouble = type == "<f8"
        dimension = columns
        rowsLeft = rows
    }

    /// The next bytes; `nil` at the file's end, which is an error within a row.
    private func take(_ count: Int, mayEnd: Bool) throws -> ArraySlice<UInt8>? {
        while bytes.end - bytes.start < count {
            guard try bytes.fill() else {
                if mayEnd, bytes.end == bytes.start { return nil }
                throw InputError("\(bytes.path) ends within a row or its header: it was cut off")
            }
        }
        defer { bytes.start += count }
        return bytes.buffer[bytes.start..<(bytes.start + count)]
    }

    private func load<T: FixedWidthInteger & BitwiseCopyable>(_ bytes: ArraySlice<UInt8>, as type: T.Type) -> T {
        unsafe bytes.withUnsafeBytes { unsafe $0.loadUnaligned(as: T.self) }
    }
}
