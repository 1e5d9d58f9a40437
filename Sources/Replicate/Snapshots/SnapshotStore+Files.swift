/// The files: how they come in, and how they go.
extension SnapshotStore {
    package func path(of file: SnapshotFile) -> String { files.path(of: file.sha256) }

    /// Whether it is here in its whole size. What is in it is said by `verify`.
    package func holds(_ file: SnapshotFile) throws -> Bool { try Folder.size(ofFileAt: path(of: file)) == file.bytes }

    /// Takes a file in: it is hashed, synced and moved; nothing is left at `source`. Blocking, reads the whole file.
    package func add(movingFileAt source: String) throws -> SnapshotFile {
        let file = try describe(source)
        try take(source, as: file)
        return file
    }

    /// Takes a file in and leaves it where it is: another name for it, or a copy where the disk gives none. It must never
    /// be changed afterwards.
    package func add(linkingFileAt source: String) throws -> SnapshotFile {
        let file = try describe(source)
        try writing.withLock { _ in
            if try holds(file) { return }
            let target = path(of: file)
            // One of another size is the rest of some accident.
            try Folder.remove(target)
            // On the disk before it has a name here: a file that is held by its size is whole.
            try Folder.sync(source)
            if try !Folder.link(source, to: target) { try copy(source, as: file) }
            try files.sync()
        }
        return file
    }

    /// The folder of files on their way; a fetch writes there.
    func partialPath(of file: SnapshotFile) -> String { partial.path(of: file.sha256) }

    /// Takes in a file that was fetched: `hash` or `size`, and it is thrown away, where it is not what was meant.
    func add(fetched source: String, expecting file: SnapshotFile) throws {
        let found = try SHA256.digest(ofFileAt: source)
        guard found.bytes == file.bytes else {
            try Folder.remove(source)
            throw SnapshotRefusal(.size, "file \(file.sha256) came with \(found.bytes) bytes, not \(file.bytes)")
        }
        guard found.hex == file.sha256 else {
            try Folder.remove(source)
            throw SnapshotRefusal(.hash, "file \(file.sha256) came as \(found.hex)")
        }
        try take(source, as: file)
    }

    private func describe(_ source: String) throws -> SnapshotFile {
        let (hex, bytes) = try SHA256.digest(ofFileAt: source)
        guard bytes > 0 else { throw SnapshotRefusal(.empty, "\(source) is empty") }
        return try SnapshotFile(sha256: hex, bytes: bytes)
    }

    private func take(_ source: String, as file: SnapshotFile) throws {
        try writing.withLock { _ in
            if try holds(file) {
                try Folder.remove(source)
                return
            }
            try Folder.sync(source)
            if try !Folder.move(source, to: path(of: file)) {
                try copy(source, as: file)
                try Folder.remove(source)
            }
            try files.sync()
        }
    }

    private func copy(_ source: String, as file: SnapshotFile) throws {
        let unfinished = path(of: file) + Folder.unfinished
        try Folder.remove(unfinished)
        try Folder.copy(source, to: unfinished)
        guard try Folder.move(unfinished, to: path(of: file)) else {
            throw SnapshotFileError("move to \(path(of: file))", unfinished, "they are on two disks")
        }
    }

    // MARK: Sweeping

    /// Runs `body`, and no sweep on any thread removes a file of the snapshot meanwhile.
    package func sparing<Result>(_ manifest: SnapshotManifest, _ body: () throws -> Result) rethrows -> Result {
        let files = manifest.files
        uses.withLock { for file in files { $0.spared[file, default: 0] += 1 } }
        defer {
            uses.withLock {
                for file in files {
                    let others = ($0.spared[file] ?? 1) - 1
                    $0.spared[file] = others == 0 ? nil : others
                }
            }
        }
        return try body()
    }

    /// Takes a file's partial for one fetch; `false` where another has it.
    func claim(_ file: SnapshotFile) -> Bool { uses.withLock { $0.fetched.insert(file).inserted } }

    func release(_ file: SnapshotFile) { uses.withLock { _ = $0.fetched.remove(file) } }

    /// Removes the oldest manifests beyond the newest `keep`, then the files and partials that none of those left needs.
    ///
    /// Never what `current`, `pinned` or `underWay` references (a snapshot that is being sealed), nor what is being fetched
    /// or in the hands of `sparing(_:_:)`.
    /// Manifests that cannot be read go too, for nobody can load them. Returns how many files went.
    @discardableResult
    package func sweep(keep: Int, sparing underWay: SnapshotManifest? = nil) throws -> Int {
        precondition(keep >= 1, "a store keeps at least its newest snapshot")
        return try writing.withLock { _ in
            // Where these cannot be read nothing is removed: `load` throws.
            var kept = try [current?.name, pinnedName].compactMap(\.self).map { try loadIfHeld($0) }.compactMap(\.self)
            let (sound, damaged) = try inventory()
            kept += sound.suffix(keep)
            let names = Set(kept.map(\.name))
            for name in sound.map(\.name) + damaged.map(\.name) where !names.contains(name) {
                try Folder.remove(folderOfManifests.path(of: "\(name)"))
            }
            // The manifests go for good before their files: one that came back without them would be a lie.
            try folderOfManifests.sync()
            var needed = Set(kept.flatMap { $0.manifest.files(parts) }.map(\.sha256))
            if let underWay { needed.formUnion(underWay.files.map(\.sha256)) }
            needed.formUnion(uses.withLock { $0.spared.keys.map(\.sha256) })
            var removed = 0
            for folder in [files, partial] {
                for name in try folder.names() where !needed.contains(name) {
                    removed += try Folder.remove(folder.path(of: name)) ? 1 : 0
                }
                try folder.sync()
            }
            return removed
        }
    }

    /// `nil` where it is not here: a pin may name what this store never had.
    private func loadIfHeld(_ name: SnapshotName) throws -> SignedManifest? {
        do {
            return try load(name)
        } catch let refusal as SnapshotRefusal where refusal.reason == .unavailable {
            return nil
        }
    }
}
