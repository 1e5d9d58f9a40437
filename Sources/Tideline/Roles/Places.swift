import Foundation

/// Where the files that come with the program lie: beside the working folder, or above the program itself.
enum Places {
    /// A shipped file, such as `pipelines/cards.yaml`; the path as given where it is found nowhere.
    static func file(_ relative: String) -> String {
        var candidates = [FileManager.default.currentDirectoryPath]
        if let home = ProcessInfo.processInfo.environment["TIDELINE_HOME"] { candidates.insert(home, at: 0) }
        var folder = URL(filePath: program).deletingLastPathComponent()
        for _ in 0..<5 {
            candidates.append(folder.path())
            folder = folder.deletingLastPathComponent()
        }
        for candidate in candidates {
            let path = (candidate.hasSuffix("/") ? candidate : candidate + "/") + relative
            if FileManager.default.fileExists(atPath: path) {
                return candidate == FileManager.default.currentDirectoryPath ? relative : path
            }
        }
        return relative
    }

    /// This program's own path.
    static var program: String {
        (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? CommandLine.arguments[0]
    }
}
