import Glibc

/// Finds out what a file is, and parses it.
enum ModelFile {
    /// No model comes near; a wrong path (a log, a disk image) is not read into memory.
    static let bytesMax = 4 << 30

    static func parse(_ bytes: [UInt8]) throws(ModelError) -> (value: ModelValue, format: String) {
        let start = bytes.starts(with: [0xef, 0xbb, 0xbf]) ? 3 : 0
        var at = start
        while at < bytes.count, [9, 10, 13, 32].contains(bytes[at]) { at += 1 }
        guard at < bytes.count else { throw ModelError(.unreadable, "the file is empty") }
        if bytes[at] == UInt8(ascii: "{") {
            // An object begins with a quote in JSON, with the marker of a length in UBJ.
            let next = at + 1 < bytes.count ? bytes[at + 1] : 0
            if [UInt8]("iUIlL#$N".utf8).contains(next) {
                return (try UBJModelReader.read(bytes, from: at), "UBJ")
            }
            return (try JSONModelReader.read(bytes, from: start), "JSON")
        }
        throw refusal(bytes, at)
    }

    /// Names what is no model in JSON or UBJ.
    private static func refusal(_ bytes: [UInt8], _ at: Int) -> ModelError {
        let head = String(decoding: bytes[at...].prefix(64), as: UTF8.self)
        let again = "save it again with `booster.save_model(\"model.json\")` or `\"model.ubj\"`"
        if head.hasPrefix("booster[") || head.hasPrefix("0:[") || head.hasPrefix("0:leaf") || head.hasPrefix("bias:") {
            return ModelError(
                .unsupported, "this is a text dump: thresholds are shortened and the objective is missing",
                remedy: again)
        }
        if head.hasPrefix("[") {
            return ModelError(
                .unsupported, "this is a JSON array, as a dump of trees is: the objective and base score are missing",
                remedy: again)
        }
        if bytes[at] == 0x1f || head.hasPrefix("PK") {
            return ModelError(.unsupported, "the file is compressed", remedy: "unpack it first")
        }
        if bytes[at] == 0x80 {
            return ModelError(.unsupported, "this is a Python pickle", remedy: "load it in Python and \(again)")
        }
        return ModelError(
            .unsupported, "this is neither JSON nor UBJ; it may be XGBoost's old binary format",
            remedy: "load it with the XGBoost that wrote it (before 3.1) and \(again)")
    }

    static func read(_ path: String) throws(ModelError) -> [UInt8] {
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw unreadable(path, errno) }
        defer { close(file) }
        var status = stat()
        guard unsafe fstat(file, &status) == 0 else { throw unreadable(path, errno) }
        guard status.st_mode & S_IFMT == S_IFREG else { throw ModelError(.unreadable, "\(path) is no regular file") }
        guard status.st_size <= bytesMax else {
            throw ModelError(.unreadable, "\(path) has \(status.st_size) bytes, more than \(bytesMax)")
        }
        let size = Int(status.st_size)
        var failure: Int32 = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
            while count < size {
                let got = unsafe Glibc.read(file, buffer.baseAddress! + count, size - count)
                if got < 0, errno == EINTR { continue }
                if got < 0 { failure = errno }
                guard got > 0 else { break }
                count += got
            }
        }
        guard failure == 0 else { throw unreadable(path, failure) }
        return bytes
    }

    private static func unreadable(_ path: String, _ code: Int32) -> ModelError {
        ModelError(.unreadable, "\(path) can't be read: \(unsafe String(cString: strerror(code)))")
    }
}
