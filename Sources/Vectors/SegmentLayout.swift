internal import CChecksum

/// How a segment's file is laid out: FAISS's index first, so that a FAISS tool opens the file as it is; then columns, each at
/// a multiple of 64 bytes; then a footer of fixed size that holds the counts, the calibration and the checksums (CRC-32C).
/// All numbers are little-endian.
struct SegmentLayout: Equatable {
    /// Forms of the footer. The first one's entries do not say how long the shortlist was: it was 20.
    enum Version: UInt64, CaseIterable {
        case second = 0x3230_4745_534C_4454  // "TDLSEG02"
        case first = 0x3130_4745_534C_4454  // "TDLSEG01"

        var calibrationsMax: Int { self == .first ? 32 : 64 }
        var entryBytes: Int { self == .first ? 12 : 16 }
        var footerBytes: Int { 8 + 8 + 6 * 4 + calibrationsMax * entryBytes + 8 }
    }

    static let calibrationsMax = Version.second.calibrationsMax
    static let footerBytes = Version.second.footerBytes

    var version = Version.second

    var graphBytes: Int
    var rows: Int
    var nodes: Int
    var dimensions: Int
    var metric: Metric
    var calibration: [CalibratedEffort]
    /// Of everything before the footer.
    var checksum: UInt32 = 0

    // MARK: Columns

    enum Column: Int, CaseIterable {
        case first, nodes, ids, versions, times, scores, labels, entities
        /// Rows in the order of a column.
        case byId, byTime, byScore, byLabel, byEntity
    }

    private static func aligned(_ offset: Int) -> Int { (offset + 63) / 64 * 64 }

    func bytes(of column: Column) -> Int {
        switch column {
        case .first: 4 * (nodes + 1)
        case .ids, .versions, .times, .entities: 8 * rows
        default: 4 * rows
        }
    }

    /// Where a column begins in the file.
    func offset(of column: Column) -> Int {
        var offset = Self.aligned(graphBytes)
        for other in Column.allCases.prefix(column.rawValue) { offset = Self.aligned(offset + bytes(of: other)) }
        return offset
    }

    var footerOffset: Int { Self.aligned(offset(of: .byEntity) + bytes(of: .byEntity)) }
    var fileBytes: Int { footerOffset + version.footerBytes }
    var columnBytes: Int { footerOffset - Self.aligned(graphBytes) }

    // MARK: The footer

    var footer: [UInt8] {
        var bytes: [UInt8] = []
        func add<T: FixedWidthInteger>(_ value: T) {
            for shift in stride(from: 0, to: T.bitWidth, by: 8) {
                bytes.append(UInt8(truncatingIfNeeded: value >> T(shift)))
            }
        }
        add(version.rawValue)
        add(UInt64(graphBytes))
        for number in [rows, nodes, dimensions, metric.code, calibration.count, 0] { add(UInt32(number)) }
        for index in 0..<version.calibrationsMax {
            let entry = index < calibration.count ? calibration[index] : nil
            for number in [entry?.gamma, entry?.recall, entry?.expansions] { add((number ?? 0).bitPattern) }
            if version != .first { add(UInt32(entry?.shortlist ?? 0)) }
        }
        add(checksum)
        add(Self.checksum(of: bytes))
        return bytes
    }

    init(graphBytes: Int, rows: Int, nodes: Int, dimensions: Int, metric: Metric, calibration: [CalibratedEffort]) {
        self.graphBytes = graphBytes
        self.rows = rows
        self.nodes = nodes
        self.dimensions = dimensions
        self.metric = metric
        self.calibration = calibration
    }

    /// The layout that a footer tells; nil when it is none or the file has another size.
    init?(footer: [UInt8], fileBytes: Int) {
        guard let version = Version.allCases.first(where: { $0.footerBytes == footer.count }) else { return nil }
        func number<T: FixedWidthInteger>(_ at: Int, _ type: T.Type) -> T {
            (0..<T.bitWidth / 8).reduce(0) { $0 | T(footer[at + $1]) << T($1 * 8) }
        }
        let end = footer.count - 4
        guard number(0, UInt64.self) == version.rawValue,
            number(end, UInt32.self) == Self.checksum(of: Array(footer[..<end])),
            number(8, UInt64.self) <= UInt64(fileBytes), let metric = Metric(code: Int(number(28, UInt32.self)))
        else { return nil }
        let calibrations = Int(number(32, UInt32.self))
        guard calibrations <= version.calibrationsMax else { return nil }
        func float(_ at: Int) -> Float { Float(bitPattern: number(at, UInt32.self)) }
        self.init(
            graphBytes: Int(number(8, UInt64.self)), rows: Int(number(16, UInt32.self)),
            nodes: Int(number(20, UInt32.self)), dimensions: Int(number(24, UInt32.self)), metric: metric,
            calibration: (0..<calibrations).map {
                let at = 40 + version.entryBytes * $0
                return CalibratedEffort(
                    gamma: float(at), recall: float(at + 4), expansions: float(at + 8),
                    shortlist: version == .first ? 20 : Int(number(at + 12, UInt32.self)))
            })
        self.version = version
        checksum = number(end - 4, UInt32.self)
        guard rows > 0, nodes > 0, nodes <= rows, self.fileBytes == fileBytes else { return nil }
    }

    private static func checksum(of bytes: [UInt8]) -> UInt32 {
        unsafe bytes.withUnsafeBytes { unsafe tl_crc32c(0, $0.baseAddress, $0.count) }
    }
}

extension Metric {
    /// In files.
    var code: Int {
        switch self {
        case .squaredL2: 0
        case .innerProduct: 1
        case .cosine: 2
        }
    }

    init?(code: Int) {
        guard let metric = Metric.allCases.first(where: { $0.code == code }) else { return nil }
        self = metric
    }
}
