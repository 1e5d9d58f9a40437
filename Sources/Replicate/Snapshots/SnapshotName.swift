import Changes

/// Which snapshot: a lineage and a number in it. It is also the manifest's file name.
package struct SnapshotName: Hashable, Sendable, CustomStringConvertible {
    package let lineage: Lineage
    package let number: UInt64

    package init(lineage: Lineage, number: UInt64) {
        self.lineage = lineage
        self.number = number
    }

    /// Reads the form that `description` writes, and only that.
    package init?(_ text: String) {
        guard let dash = text.lastIndex(of: "-"), let lineage = Lineage(String(text[..<dash])),
            let number = UInt64(text[text.index(after: dash)...]), number > 0
        else { return nil }
        self.init(lineage: lineage, number: number)
        guard description == text else { return nil }
    }

    package var description: String { "\(lineage)-\(number)" }
}
