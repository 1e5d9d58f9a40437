/// A Swift source with its comments and string literals blanked: what is left is code, on the same lines.
struct SourceText {
    let lines: [String]
    let code: [String]

    init(_ text: String) {
        lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        var blanker = Blanker(Array(text.utf8))
        code = blanker.run().split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    }

    /// The modules that the source imports, with any access level or attribute, and the line of each.
    var imports: [(module: String, line: Int)] {
        code.enumerated().flatMap { index, line in
            line.split(separator: ";").compactMap { statement in
                let pattern =
                    /^\s*(?:@\w+(?:\([^)]*\))?\s+)*(?:(?:public|package|internal|fileprivate|private)\s+)?import\s+(?:(?:struct|class|enum|protocol|func|var|let|typealias|actor)\s+)?(\w+)/
                return statement.firstMatch(of: pattern).map { (String($0.1), index + 1) }
            }
        }
    }

    /// The comment that ends on the line before `index`; attributes and blank lines do not belong to it.
    func comment(above index: Int) -> String {
        var first = index
        while first > 0, lines[first - 1].drop(while: { $0 == " " }).hasPrefix("//") { first -= 1 }
        return lines[first..<index].joined(separator: "\n")
    }
}

/// Walks a source once. Inside a literal's `\( … )` there is code again, so places nest.
private struct Blanker {
    private enum Place {
        case code
        case interpolation(depth: Int)
        case comment(depth: Int)
        case lineComment
        case literal(quotes: Int, pounds: Int)
    }

    private let bytes: [UInt8]
    private var position = 0
    private var places: [Place] = [.code]
    private var output: [UInt8] = []

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
        output.reserveCapacity(bytes.count)
    }

    mutating func run() -> String {
        while position < bytes.count {
            switch places.last ?? .code {
            case .code: code(depth: nil)
            case .interpolation(let depth): code(depth: depth)
            case .comment(let depth): comment(depth)
            case .lineComment:
                if bytes[position] == UInt8(ascii: "\n") { places.removeLast() }
                blank(1)
            case .literal(let quotes, let pounds): literal(quotes, pounds)
            }
        }
        return String(decoding: output, as: UTF8.self)
    }

    private mutating func code(depth: Int?) {
        if starts("//") { return enter(.lineComment, 2) }
        if starts("/*") { return enter(.comment(depth: 1), 2) }
        var pounds = 0
        while position + pounds < bytes.count, bytes[position + pounds] == UInt8(ascii: "#") { pounds += 1 }
        if starts("\"\"\"", at: pounds) { return enter(.literal(quotes: 3, pounds: pounds), pounds + 3) }
        if starts("\"", at: pounds) { return enter(.literal(quotes: 1, pounds: pounds), pounds + 1) }
        if let depth {
            if bytes[position] == UInt8(ascii: "(") { places[places.count - 1] = .interpolation(depth: depth + 1) }
            if bytes[position] == UInt8(ascii: ")") {
                places[places.count - 1] = .interpolation(depth: depth - 1)
                if depth == 1 { places.removeLast() }
            }
        }
        output.append(bytes[position])
        position += 1
    }

    private mutating func comment(_ depth: Int) {
        if starts("/*") {
            places[places.count - 1] = .comment(depth: depth + 1)
            blank(2)
        } else if starts("*/") {
            places[places.count - 1] = .comment(depth: depth - 1)
            if depth == 1 { places.removeLast() }
            blank(2)
        } else {
            blank(1)
        }
    }

    private mutating func literal(_ quotes: Int, _ pounds: Int) {
        let hashes = String(repeating: "#", count: pounds)
        if starts("\\" + hashes + "(") { return enter(.interpolation(depth: 1), pounds + 2) }
        if starts("\\" + hashes) { return blank(pounds + 2) }
        if starts(String(repeating: "\"", count: quotes) + hashes) {
            places.removeLast()
            return blank(quotes + pounds)
        }
        // An ordinary literal ends with its line at the latest: no quote that was misread hides the rest of a file.
        if quotes == 1, bytes[position] == UInt8(ascii: "\n") { places.removeLast() }
        blank(1)
    }

    private mutating func enter(_ place: Place, _ count: Int) {
        places.append(place)
        blank(count)
    }

    private mutating func blank(_ count: Int) {
        for _ in 0..<count where position < bytes.count {
            output.append(bytes[position] == UInt8(ascii: "\n") ? bytes[position] : UInt8(ascii: " "))
            position += 1
        }
    }

    private func starts(_ text: String, at offset: Int = 0) -> Bool {
        bytes.dropFirst(position + offset).starts(with: text.utf8)
    }
}
