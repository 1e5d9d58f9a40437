/// What a mistyped word was meant to be.
enum Nearest {
    /// The word at the least edit distance; `nil` where none is near.
    static func of(_ word: String, among words: [String]) -> String? {
        let ranked = words.map { ($0, distance(word, $0)) }.min { $0.1 < $1.1 }
        guard let (best, distance) = ranked, distance <= max(2, word.count / 3) else { return nil }
        return best
    }

    /// Method: Levenshtein's distance, one row at a time.
    static func distance(_ a: String, _ b: String) -> Int {
        let (a, b) = (Array(a), Array(b))
        var row = Array(0...b.count)
        for (i, x) in a.enumerated() {
            var diagonal = row[0]
            row[0] = i + 1
            for (j, y) in b.enumerated() {
                let above = row[j + 1]
                row[j + 1] = min(above + 1, row[j] + 1, diagonal + (x == y ? 0 : 1))
                diagonal = above
            }
        }
        return row[b.count]
    }
}
