internal import Foundation
import Changes

/// Writes a log's export: beside its name first, under its name when all is on the disk.
package final class LogArchiveWriter {
    private let path: String
    private let handle: FileHandle
    private var buffer = ByteWriter(capacity: 2 << 20)
    private var frames: UInt64 = 0
    package private(set) var bytes: UInt64 = 0

    private init(_ path: String) throws {
        self.path = path
        let unfinished = path + ".unfinished"
        guard FileManager.default.createFile(atPath: unfinished, contents: nil) else {
            throw CocoaError(.fileWriteUnknown, userInfo: [NSFilePathErrorKey: unfinished])
        }
        handle = try FileHandle(forWritingTo: URL(filePath: unfinished))
    }

    /// Writes the whole log as it stands for this reader. `progress` is called now and then with the events and batches
    /// so far.
    package static func export(
        _ reader: EmbeddedLogReader, pipeline: String, to path: String,
        progress: (_ events: UInt64, _ batches: UInt64) -> Void
    ) throws -> (header: LogArchive.Header, bytes: UInt64) {
        let writer = try LogArchiveWriter(path)
        let header = LogArchive.Header(
            lineage: reader.lineage, pipeline: pipeline,
            ends: try (0..<reader.partitions).map {
                LogArchive.End(input: try reader.inputEnd(of: $0), seq: try reader.changelogEnd(of: $0))
            })
        try writer.put(header)
        var counts: (events: UInt64, batches: UInt64) = (0, 0)
        for (partition, end) in header.ends.enumerated() {
            try writer.input(of: partition, reader, until: end.input) {
                counts.events += UInt64($0)
                progress(counts.events, counts.batches)
            }
            try writer.transactions(of: partition, reader, until: end.seq) {
                counts.batches += 1
                progress(counts.events, counts.batches)
            }
        }
        try writer.finish()
        return (header, writer.bytes)
    }

    private func input(
        of partition: Int, _ reader: EmbeddedLogReader, until end: UInt64, _ wrote: (Int) -> Void
    ) throws {
        var events = LogArchive.Events(partition: partition, first: 0)
        func flush() throws {
            guard events.count > 0 else { return }
            try put(events)
            wrote(events.count)
            events = LogArchive.Events(partition: partition, first: events.first + UInt64(events.count))
        }
        try unsafe reader.input(of: partition, from: 0) { offset, event, time in
            guard offset < end else { return false }
            let due = events.first + UInt64(events.count)
            guard offset == due else {
                throw LogArchive.Failure.holes("event \(offset) of partition \(partition) where \(due) was due")
            }
            unsafe events.bytes.append(contentsOf: event)
            events.ends.append(events.bytes.count)
            events.times.append(time)
            if events.count >= 5000 || events.bytes.count >= 1 << 20 { try flush() }
            return true
        }
        try flush()
        guard events.first == end else {
            throw LogArchive.Failure.holes("partition \(partition) ends at event \(events.first), not at \(end)")
        }
    }

    private func transactions(
        of partition: Int, _ reader: EmbeddedLogReader, until end: UInt64, _ wrote: () -> Void
    ) throws {
        var last: UInt64 = 0
        try unsafe reader.changelog(of: partition, after: 0) { seq, encoded in
            guard seq <= end else { return false }
            guard seq == last + 1 else {
                throw LogArchive.Failure.holes("batch \(seq) of partition \(partition) where \(last + 1) was due")
            }
            last = seq
            var transaction = LogArchive.Transaction(
                partition: partition, seq: seq, changes: unsafe Array(encoded), scores: [], deadLetters: [])
            try unsafe reader.scores(of: partition, after: seq - 1) { found, lines in
                if found == seq { transaction.scores = unsafe Array(lines) }
                return false
            }
            try reader.deadLetters(of: partition, after: seq - 1) { found, letters in
                guard found == seq else { return false }
                var writer = ByteWriter()
                for letter in letters {
                    unsafe letter.bytes.withUnsafeBytes {
                        unsafe DeadLetter.write(
                            offset: letter.offset, appendTime: letter.appendTime, reason: letter.reason, bytes: $0,
                            to: &writer)
                    }
                }
                transaction.deadLetters = unsafe Array(writer.bytes)
                return false
            }
            try put(transaction)
            wrote()
            return true
        }
        guard last == end else {
            throw LogArchive.Failure.holes("partition \(partition) ends at batch \(last), not at \(end)")
        }
    }

    // MARK: frames

    private func put(_ header: LogArchive.Header) throws {
        try frame(LogArchive.header, 0, 0) { writer in
            writer.append(LogArchive.version)
            writer.append(header.lineage.high)
            writer.append(header.lineage.low)
            writer.append(UInt32(header.ends.count))
            for end in header.ends {
                writer.append(end.input)
                writer.append(end.seq)
            }
            writer.append(utf8: header.pipeline)
        }
    }

    private func put(_ events: LogArchive.Events) throws {
        try frame(LogArchive.input, events.partition, events.first) { writer in
            writer.append(UInt32(events.count))
            for index in 0..<events.count {
                writer.append(events.times[index])
                writer.append(UInt32(events.ends[index] - (index == 0 ? 0 : events.ends[index - 1])))
            }
            unsafe events.bytes.withUnsafeBytes { unsafe writer.append($0) }
        }
    }

    private func put(_ transaction: LogArchive.Transaction) throws {
        let parts = [transaction.changes, transaction.scores, transaction.deadLetters]
        try frame(LogArchive.transaction, transaction.partition, transaction.seq) { writer in
            for part in parts { writer.append(UInt32(part.count)) }
            for part in parts { unsafe part.withUnsafeBytes { unsafe writer.append($0) } }
        }
    }

    private func frame(
        _ kind: UInt8, _ partition: Int, _ position: UInt64, _ fill: (inout ByteWriter) -> Void
    ) throws {
        let start = buffer.count
        buffer.append(kind)
        buffer.append(UInt32(partition))
        buffer.append(position)
        let place = buffer.count
        buffer.append(UInt32(0))
        fill(&buffer)
        buffer.store(UInt32(buffer.count - place - 4), at: place)
        buffer.append(unsafe crc32c(UnsafeRawBufferPointer(rebasing: buffer.bytes[start...])))
        frames += 1
        if buffer.count >= 1 << 20 { try flush() }
    }

    private func flush() throws {
        try handle.write(contentsOf: unsafe Data(buffer.bytes))
        bytes += UInt64(buffer.count)
        buffer.removeAll()
    }

    private func finish() throws {
        try frame(LogArchive.end, 0, frames) { _ in }
        try flush()
        try handle.synchronize()
        try handle.close()
        guard unsafe rename(path + ".unfinished", path) == 0 else {
            throw CocoaError(.fileWriteUnknown, userInfo: [NSFilePathErrorKey: path])
        }
    }
}
