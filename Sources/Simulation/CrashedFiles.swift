import Foundation

/// What a crash leaves of a process's folder: its files, without what was not yet in any.
///
/// The stores' own threads may merge and delete files meanwhile: a copy of which some are older than others is none that a
/// crash could have left, and is made again.
enum CrashedFiles {
    static func copy(_ path: String, to target: String) {
        let files = FileManager.default
        for _ in 0..<100 {
            try? files.removeItem(atPath: target)
            let before = sizes(path)
            let isCopied = (try? files.copyItem(atPath: path, toPath: target)) != nil
            if isCopied, sizes(path) == before { return }
        }
        try? files.removeItem(atPath: target)
    }

    private static func sizes(_ path: String) -> [String: Int] {
        guard let all = FileManager.default.enumerator(atPath: path) else { return [:] }
        var sizes: [String: Int] = [:]
        // RocksDB's notes for people grow at any time.
        while let name = all.nextObject() as? String {
            if !name.hasSuffix("/LOG") { sizes[name] = (all.fileAttributes?[.size] as? Int) ?? 0 }
        }
        return sizes
    }
}
