/// The three widths of tiles. A window is made of tiles of one level, so a read costs its tiles and nothing else.
package struct TileLevel: Sendable {
    package let index: Int
    /// Microseconds.
    package let width: Int64
    /// Slots of the ring, a power of two over the longest window.
    package let slots: Int

    /// Where a level's slots begin among all slots of a record.
    static func firstBit(_ level: Int) -> Int { level == 0 ? 0 : 32 + 32 * level }

    package static let all = [
        TileLevel(index: 0, width: 60_000_000, slots: 64),
        TileLevel(index: 1, width: 3_600_000_000, slots: 32),
        TileLevel(index: 2, width: 86_400_000_000, slots: 32),
    ]
}
