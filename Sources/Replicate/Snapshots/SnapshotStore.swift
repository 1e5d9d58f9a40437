import Changes
internal import Synchronization

/// The snapshots of one role, in a folder of its own.
///
/// - `files/SHA256`: the immutable files, each once, whichever snapshots share it;
/// - `partial/SHA256`: files on their way;
/// - `manifests/LINEAGE-NUMBER`: signed envelopes, each written when all its files are there;
/// - `current`: the name of the snapshot that is served, written by the role alone;
/// - `pinned`: the name of the snapshot that an operator asks to serve, written by the command line; the role follows it.
///
/// One process writes; others may read, pin and unpin beside it. Thread-safe; blocking. Signatures are verified whenever a
/// manifest is read.
package final class SnapshotStore: Sendable {
    package enum Mode: Sendable {
        /// The role's own: makes the folders, and removes what a crash left unfinished.
        case writing
        /// Beside a running role: nothing is made or removed, but `pinned`.
        case reading
    }

    /// The moments of `publish` at which a test or a simulation lets it end, as a crash would.
    package enum PublishStep: CaseIterable, Sendable {
        case begun, filesSynced, manifestUnfinished, manifestWritten, currentUnfinished, currentWritten
    }

    package let path: String
    /// What this store holds of each snapshot.
    package let parts: SnapshotParts
    let keys: TrustedKeys
    let root: Folder
    let files: Folder
    let partial: Folder
    let folderOfManifests: Folder
    /// Held while manifests, `current` and files change.
    let writing = Mutex<Void>(())
    /// Files that somebody needs for now, and how many do; files that are being fetched.
    let uses = Mutex<(spared: [SnapshotFile: Int], fetched: Set<SnapshotFile>)>(([:], []))
    private let interrupt: @Sendable (PublishStep) throws -> Void

    package convenience init(
        path: String, trusting keys: TrustedKeys, holding parts: SnapshotParts = .all, mode: Mode = .writing
    ) throws {
        try self.init(path: path, trusting: keys, holding: parts, mode: mode, interrupt: { _ in })
    }

    package init(
        path: String, trusting keys: TrustedKeys, holding parts: SnapshotParts = .all, mode: Mode,
        interrupt: @escaping @Sendable (PublishStep) throws -> Void
    ) throws {
        self.path = path
        self.parts = parts
        self.keys = keys
        self.interrupt = interrupt
        root = Folder(path)
        files = Folder("\(path)/files")
        partial = Folder("\(path)/partial")
        folderOfManifests = Folder("\(path)/manifests")
        switch mode {
        case .writing:
            for folder in [root, files, partial, folderOfManifests] { try Folder.make(folder.path) }
            for folder in [root, files, folderOfManifests] {
                for name in try folder.names() where name.hasSuffix(Folder.unfinished) {
                    try Folder.remove(folder.path(of: name))
                }
            }
        case .reading:
            guard try Folder.isFolder(folderOfManifests.path) else {
                throw SnapshotFileError("open the snapshots in", path, "there are none yet")
            }
        }
    }

    // MARK: What is there

    /// The snapshot that is served; `nil` before the first.
    package var current: SignedManifest? {
        get throws { try currentName.map { try load($0) } }
    }

    /// Which one is served; it is not read.
    package var currentName: SnapshotName? { get throws { try name(in: "current") } }

    /// The number that an operator asks for; `nil` where the newest is to be served.
    package var pinned: UInt64? { get throws { try pinnedName?.number } }

    package var pinnedName: SnapshotName? { get throws { try name(in: "pinned") } }

    /// Every sound snapshot, oldest first. What is not sound is in `inventory`.
    package var manifests: [SignedManifest] { get throws { try inventory().sound } }

    /// What the folder holds: sound ones, oldest first, and those that cannot be read with the reason.
    package func inventory() throws -> (
        sound: [SignedManifest], damaged: [(name: SnapshotName, refusal: SnapshotRefusal)]
    ) {
        var sound: [SignedManifest] = []
        var damaged: [(name: SnapshotName, refusal: SnapshotRefusal)] = []
        for name in try folderOfManifests.names().compactMap(SnapshotName.init) {
            do {
                sound.append(try load(name))
            } catch let refusal as SnapshotRefusal {
                // Gone since the folder was listed: a sweep.
                if refusal.reason != .unavailable { damaged.append((name, refusal)) }
            }
        }
        // A lineage is as new as its newest snapshot; within one the number tells, whatever the clocks said.
        let newest = Dictionary(grouping: sound, by: \.manifest.lineage).mapValues { group in
            group.map(\.manifest.createdAt).max() ?? 0
        }
        sound.sort { one, other in
            let (a, b) = (one.manifest, other.manifest)
            if a.lineage == b.lineage { return a.number < b.number }
            return (newest[a.lineage] ?? 0, "\(a.lineage)") < (newest[b.lineage] ?? 0, "\(b.lineage)")
        }
        return (sound, damaged)
    }

    /// The highest number of a lineage that has a manifest here, be it served or not: a crash may have left one that was not
    /// made the current one, and its number is taken.
    package func newestNumber(of lineage: Lineage) throws -> UInt64? { try numbers(of: lineage).max() }

    /// The lowest number of a lineage to which one may go back.
    package func oldestNumber(of lineage: Lineage) throws -> UInt64? { try numbers(of: lineage).min() }

    private func numbers(of lineage: Lineage) throws -> [UInt64] {
        try folderOfManifests.names().compactMap(SnapshotName.init).filter { $0.lineage == lineage }.map(\.number)
    }

    /// Reads one snapshot's manifest: `unavailable` where there is none.
    package func load(_ name: SnapshotName) throws -> SignedManifest {
        let file = folderOfManifests.path(of: "\(name)")
        let bytesMax = SignedManifest.bytesMax
        guard let size = try Folder.size(ofFileAt: file) else {
            throw SnapshotRefusal(.unavailable, "no snapshot \(name) in \(path)")
        }
        guard size <= bytesMax else { throw SnapshotRefusal(.tooLarge, "\(file) has \(size) bytes") }
        guard let bytes = try Folder.readIfThere(file, bytesMax: bytesMax) else {
            throw SnapshotRefusal(.unavailable, "snapshot \(name) in \(path) has just been swept")
        }
        let signed = try SignedManifest(decoding: bytes, trusting: keys)
        guard signed.name == name else { throw SnapshotRefusal(.damaged, "\(file) holds snapshot \(signed.name)") }
        return signed
    }

    /// The newest snapshot of that number: the current lineage's, where it has one.
    package func manifest(number: UInt64) throws -> SignedManifest {
        let found = try manifests.filter { $0.manifest.number == number }
        let lineage = try currentName?.lineage
        guard let signed = found.last(where: { $0.manifest.lineage == lineage }) ?? found.last else {
            throw SnapshotRefusal(.unavailable, "no snapshot \(number) in \(path)")
        }
        return signed
    }

    /// Hashes every file of a snapshot again; throws at the first that is missing or wrong. Reads all of its bytes.
    package func verify(_ signed: SignedManifest) throws {
        for file in signed.manifest.files(parts) {
            guard let size = try Folder.size(ofFileAt: path(of: file)) else {
                throw SnapshotRefusal(.damaged, "\(path(of: file)) is missing")
            }
            guard size == file.bytes else {
                throw SnapshotRefusal(.damaged, "\(path(of: file)) has \(size) bytes, not \(file.bytes)")
            }
            let hash = try SHA256.hex(ofFileAt: path(of: file))
            guard hash == file.sha256 else { throw SnapshotRefusal(.damaged, "\(path(of: file)) hashes to \(hash)") }
        }
    }

    // MARK: Publishing

    /// Makes a snapshot the current one. All its files must be held.
    ///
    /// In this order: files on the disk, the manifest by rename, `current` by rename. A crash at any point leaves the old
    /// snapshot or the new one.
    package func publish(_ signed: SignedManifest) throws {
        try keys.verify(signed.bytes, signature: signed.signature, keyId: signed.keyId)
        try writing.withLock { _ in
            try interrupt(.begun)
            for file in signed.manifest.files(parts) {
                guard try holds(file) else {
                    throw SnapshotRefusal(.unavailable, "file \(file.sha256) of snapshot \(signed.name) is not here")
                }
                try Folder.sync(path(of: file))
            }
            try files.sync()
            try interrupt(.filesSynced)
            try writeManifest(signed)
            try interrupt(.manifestWritten)
            try writeCurrent(signed.name)
            try interrupt(.currentWritten)
        }
    }

    private func writeManifest(_ signed: SignedManifest) throws {
        let encoded = signed.encoded
        let file = folderOfManifests.path(of: "\(signed.name)")
        if try Folder.size(ofFileAt: file) != nil {
            // The same again: a fetch of what is here already, or a start after a crash. A damaged one is written anew.
            do {
                guard try load(signed.name).bytes == signed.bytes else {
                    throw SnapshotRefusal(
                        .older, "number \(signed.manifest.number) of this lineage is another snapshot's already")
                }
                return
            } catch let refusal as SnapshotRefusal where refusal.reason != .older {}
        }
        try folderOfManifests.write("\(signed.name)", encoded) { try interrupt(.manifestUnfinished) }
    }

    private func writeCurrent(_ name: SnapshotName) throws {
        try root.write("current", Array("\(name)\n".utf8)) { try interrupt(.currentUnfinished) }
    }

    /// Serves another snapshot that is here. All its files must be held.
    package func setCurrent(number: UInt64) throws { try setCurrent(manifest(number: number).name) }

    package func setCurrent(_ name: SnapshotName) throws {
        try writing.withLock { _ in
            try requireHeld(name)
            try writeCurrent(name)
        }
    }

    // MARK: Pinning

    /// Asks the role that owns the store to serve this one and no newer one.
    package func pin(_ number: UInt64) throws {
        let name = try manifest(number: number).name
        try writing.withLock { _ in
            try requireHeld(name)
            try root.write("pinned", Array("\(name)\n".utf8))
            // The role may have swept between the look and the pin; from now on it spares this one.
            do { try requireHeld(name) } catch {
                try Folder.remove(root.path(of: "pinned"))
                throw error
            }
        }
    }

    private func requireHeld(_ name: SnapshotName) throws {
        let signed = try load(name)
        if let missing = try signed.manifest.files(parts).first(where: { try !holds($0) }) {
            throw SnapshotRefusal(.damaged, "file \(missing.sha256) of snapshot \(name) is not here")
        }
    }

    /// Asks for the newest again. Returns whether one was pinned.
    @discardableResult
    package func unpin() throws -> Bool {
        let was = try Folder.remove(root.path(of: "pinned"))
        try root.sync()
        return was
    }

    private func name(in file: String) throws -> SnapshotName? {
        let file = root.path(of: file)
        guard let bytes = try Folder.readIfThere(file, bytesMax: 256) else { return nil }
        let text = String(decoding: bytes, as: UTF8.self)
        guard text.hasSuffix("\n"), let name = SnapshotName(String(text.dropLast())) else {
            throw SnapshotRefusal(.damaged, "\(file) names no snapshot: `\(text.prefix(80))`")
        }
        return name
    }
}
