import Foundation

/// A two-dimensional array of a .npy file: version 1 or 2, little-endian 4-byte numbers, rows one after another.
struct Matrix<Element: BitwiseCopyable> {
    var rows: Int
    var columns: Int
    var values: [Element]

    struct Unreadable: Error, CustomStringConvertible {
        var description: String
    }

    init(npy path: String) throws {
        let data = try Data(contentsOf: URL(filePath: path), options: .mappedIfSafe)
        guard data.count > 12, data.prefix(6) == Data([0x93] + Array("NUMPY".utf8)) else {
            throw Unreadable(description: "\(path): no .npy file")
        }
        let wide = data[6] > 1
        let length = wide ? Int(data[8]) | Int(data[9]) << 8 | Int(data[10]) << 16 : Int(data[8]) | Int(data[9]) << 8
        let start = (wide ? 12 : 10) + length
        let header = String(decoding: data[10..<start], as: UTF8.self)
        guard header.contains("'<f4'") || header.contains("'<i4'"), header.contains("False"),
            let shape = header.firstMatch(of: /\((\d+), (\d+)\)/), let rows = Int(shape.1), let columns = Int(shape.2),
            data.count - start == rows * columns * 4
        else { throw Unreadable(description: "\(path): not two-dimensional, in rows, of f4 or i4") }
        self.rows = rows
        self.columns = columns
        values = data.withUnsafeBytes { bytes in
            [Element](unsafeUninitializedCapacity: rows * columns) { buffer, count in
                UnsafeMutableRawBufferPointer(buffer).copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: bytes[start...]))
                count = rows * columns
            }
        }
    }

    func slice(_ index: Int) -> ArraySlice<Element> { values[index * columns..<(index + 1) * columns] }
    func row(_ index: Int) -> [Element] { Array(slice(index)) }
}
