import Foundation
import Testing

@testable import Tideline

@Suite struct VectorFileTests {
    private func npy(
        _ rows: [[Float]], type: String = "<f4", order: String = "False", shape: String? = nil, version: UInt8 = 1
    ) -> [UInt8] {
        let shape = shape ?? "(\(rows.count), \(rows.first?.count ?? 0))"
        var header = Array("{'descr': '\(type)', 'fortran_order': \(order), 'shape': \(shape), }".utf8)
        header += [UInt8](repeating: 32, count: (64 - (header.count + 11) % 64) % 64) + [10]
        var bytes: [UInt8] = [0x93] + Array("NUMPY".utf8) + [version, 0]
        bytes += [UInt8(header.count & 255), UInt8(header.count >> 8)] + (version > 1 ? [0, 0] : []) + header
        for number in rows.joined() {
            bytes +=
                type == "<f8"
                ? withUnsafeBytes(of: Double(number).bitPattern.littleEndian, Array.init)
                : withUnsafeBytes(of: number.bitPattern.littleEndian, Array.init)
        }
        return bytes
    }

    private func fvecs(_ rows: [[Float]]) -> [UInt8] {
        rows.flatMap { row in
            withUnsafeBytes(of: Int32(row.count).littleEndian, Array.init)
                + row.flatMap { withUnsafeBytes(of: $0.bitPattern.littleEndian, Array.init) }
        }
    }

    private func events(_ bytes: [UInt8], name: String = "", dimension: Int = 2) throws -> [String] {
        let file = FileManager.default.temporaryDirectory.appending(path: "tideline-\(UUID().uuidString)\(name)")
        try Data(bytes).write(to: file)
        defer { try? FileManager.default.removeItem(at: file) }
        var options = ReplaySource.Options()
        (options.idPath, options.entityPath, options.timeField) = ("id", "item", "time")
        options.constants = [("time", "t")]
        options.embedding = ("vector", dimension)
        return try allRows(of: ReplaySource(InputBytes(path: file.path), options: options))
    }

    let rows: [[Float]] = [[1, -0.25], [1e-7, 3.4e38]]
    let expected = [
        #"{"time":"t","id":"row-1","item":"row-1","vector":[1.0,-0.25]}"#,
        #"{"time":"t","id":"row-2","item":"row-2","vector":[1e-07,3.4e+38]}"#,
    ]

    @Test func rowsBecomeEvents() throws {
        #expect(try events(npy(rows)) == expected)
        #expect(try events(npy(rows, version: 2)) == expected)
        #expect(try events(npy(rows, type: "<f8")) == expected)
        #expect(try events(fvecs(rows), name: ".fvecs") == expected)
        #expect(try events(npy([[1, .nan], [2, 3]]))[0] == "refused: row 1: a number is not finite")
    }

    @Test func filesThatCannotBeReadSaySo() throws {
        let cases: [([UInt8], String, String)] = [
            (npy(rows, type: ">f4"), "", "save it as float32"), (npy(rows, type: "<i8"), "", "save it as float32"),
            (npy(rows, order: "True"), "", "ascontiguousarray"), (npy(rows, shape: "(4,)"), "", "(rows, dimension)"),
            (npy(rows, version: 9), "", "not known"), (Array(npy(rows).dropLast()), "", "cut off"),
            (Array(npy(rows).prefix(9)), "", "cut off"), (Array(fvecs(rows).dropLast(2)), ".fvecs", "cut off"),
            (fvecs([[1, 2], [1, 2, 3]]), ".fvecs", "is it an .fvecs file"),
            (fvecs(rows).map { ~$0 }, ".fvecs", "is it an .fvecs file"), (npy([[1, 2, 3]]), "", "`dimension: 3`"),
        ]
        for (bytes, name, words) in cases {
            #expect { _ = try events(bytes, name: name) } throws: { "\($0)".contains(words) }
        }
    }
}
