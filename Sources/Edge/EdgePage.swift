/// The region's own page, and the headers that a page of another origin may read.
package enum EdgePage {
    /// `Page/index.html`, built into the program: one file that asks for nothing from elsewhere.
    package static let html: [UInt8] = PackageResources.index_html

    package static let exposedHeaders = [
        "Tideline-Region", "Tideline-State", "Tideline-Staleness-Ms", "Tideline-As-Of", "Tideline-Snapshot",
        "Tideline-Frontier",
    ]
}
