import Service

/// Brings a snapshot's files into a store: only those that it lacks, each from where an earlier fetch left it.
///
/// It publishes nothing: whoever fetches loads and checks the files first. Of two fetches at once one waits for the files
/// that both need. Blocking.
package struct SnapshotFetch: Sendable {
    package struct Limits: Sendable {
        /// Of all files of a snapshot together.
        package var bytesMax = 64 << 30
        /// What the disk must have left afterwards.
        package var diskBytesLeftMin = 256 << 20
        /// Tries in a row that bring no byte.
        package var attemptsMax = 10
        /// Before the second try; doubled each time, up to 2 s.
        package var backoffMilliseconds = 100

        package init() {}
    }

    package struct Outcome: Equatable, Sendable {
        package var filesFetched = 0
        /// Bytes that came from the source.
        package var bytesFetched = 0
        /// Bytes that were here: whole files, and what earlier fetches left.
        package var bytesReused = 0
    }

    private let store: SnapshotStore
    private let source: any SnapshotSource
    private let limits: Limits

    package init(store: SnapshotStore, source: any SnapshotSource, limits: Limits = .init()) {
        self.store = store
        self.source = source
        self.limits = limits
    }

    /// Returns when the store holds every file. Throws `CancellationError` when `stopping` is stopped, between two chunks;
    /// what came until then is kept, and the next fetch goes on there.
    ///
    /// - Parameters:
    ///   - parts: which files; `nil`: those that the store holds of a snapshot.
    ///   - progress: bytes that are here, and bytes of the whole.
    @discardableResult
    package func fetch(
        _ signed: SignedManifest, parts: SnapshotParts? = nil, until stopping: StopSignal = StopSignal(),
        progress: (_ bytesDone: Int, _ bytesTotal: Int) -> Void = { _, _ in }
    ) throws -> Outcome {
        try store.sparing(signed.manifest) {
            try bring(signed, parts ?? store.parts, until: stopping, progress)
        }
    }

    private func bring(
        _ signed: SignedManifest, _ parts: SnapshotParts, until stopping: StopSignal,
        _ progress: (_ bytesDone: Int, _ bytesTotal: Int) -> Void
    ) throws -> Outcome {
        let files = signed.manifest.files(parts)
        let total = signed.manifest.bytes(of: parts)
        guard total <= limits.bytesMax else {
            throw SnapshotRefusal(
                .tooLarge, "snapshot \(signed.name) has \(total) bytes; the limit is \(limits.bytesMax)")
        }
        var outcome = Outcome()
        var missing: [(file: SnapshotFile, begun: Int)] = []
        for file in files {
            if try store.holds(file) {
                outcome.bytesReused += file.bytes
            } else {
                missing.append((file, try begun(file)))
                outcome.bytesReused += missing.last?.begun ?? 0
            }
        }
        let room = try store.partial.available() - limits.diskBytesLeftMin
        guard total - outcome.bytesReused <= max(room, 0) else {
            throw SnapshotRefusal(
                .tooLarge,
                "\(total - outcome.bytesReused) bytes of snapshot \(signed.name) are to come; the disk of "
                    + "\(store.path) has room for \(max(room, 0))")
        }
        progress(outcome.bytesReused, total)
        for (file, begun) in missing {
            while !store.claim(file) { if stopping.wait(seconds: 0.05) { throw CancellationError() } }
            defer { store.release(file) }
            // What another fetch has brought since.
            let isHere = try store.holds(file)
            outcome.bytesReused += (isHere ? file.bytes : try self.begun(file)) - begun
            guard !isHere else { continue }
            try fetch(file, until: stopping) { bytes in
                outcome.bytesFetched += bytes
                progress(outcome.bytesReused + outcome.bytesFetched, total)
            }
            outcome.filesFetched += 1
        }
        return outcome
    }

    /// How much of a file an earlier fetch left. More than there can be is thrown away.
    private func begun(_ file: SnapshotFile) throws -> Int {
        let path = store.partialPath(of: file)
        guard let size = try Folder.size(ofFileAt: path) else { return 0 }
        if size <= file.bytes { return size }
        try Folder.remove(path)
        return 0
    }

    private func fetch(_ file: SnapshotFile, until stopping: StopSignal, _ came: (Int) -> Void) throws {
        let path = store.partialPath(of: file)
        var done = try begun(file)
        var attempts = 0
        var wait = Double(limits.backoffMilliseconds) / 1000
        while done < file.bytes {
            if stopping.isStopped { throw CancellationError() }
            let before = done
            var refusal: SnapshotRefusal
            do {
                let partial = try FileDescriptor(writing: path, new: false)
                try source.chunks(of: file, from: done) { bytes in
                    if stopping.isStopped { throw CancellationError() }
                    guard bytes.count <= file.bytes - done else { throw Surplus() }
                    try unsafe bytes.withUnsafeBytes { try unsafe partial.write($0) }
                    done += bytes.count
                    came(bytes.count)
                }
                if done == file.bytes { break }
                refusal = SnapshotRefusal(.truncated, "file \(file.sha256) ends at \(done) of \(file.bytes) bytes")
            } catch is Surplus {
                try Folder.remove(path)
                throw SnapshotRefusal(.size, "more bytes of file \(file.sha256) came than its \(file.bytes)")
            } catch let error as SnapshotRefusal where Self.mayPass(error) {
                refusal = error
            }
            if done > before {
                attempts = 0
                wait = Double(limits.backoffMilliseconds) / 1000
            }
            attempts += 1
            guard attempts < limits.attemptsMax else { throw refusal }
            if stopping.wait(seconds: wait) { throw CancellationError() }
            wait = min(wait * 2, 2)
        }
        try store.add(fetched: path, expecting: file)
    }

    private struct Surplus: Error {}

    /// Whether asking again may help.
    private static func mayPass(_ refusal: SnapshotRefusal) -> Bool {
        refusal.reason == .unavailable || refusal.reason == .truncated
    }
}
