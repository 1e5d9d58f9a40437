import Foundation
import Testing

/// A real nats-server of one test, on a free port of 127.0.0.1, with JetStream in a folder of its own.
final class TestBus {
    struct NoBus: Error, CustomStringConvertible {
        let description: String
    }

    let folder: String
    let port: UInt16
    private let arguments: [String]
    private var process: Process?

    /// Debian's program; `nil` where it is not installed.
    static let program: String? = {
        let path = (ProcessInfo.processInfo.environment["PATH"] ?? "") + ":/usr/sbin:/usr/local/sbin:/usr/local/bin"
        return path.split(separator: ":").map { "\($0)/nats-server" }.first {
            FileManager.default.isExecutableFile(atPath: $0)
        }
    }()

    private static let worldConfiguration = URL(filePath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent().appending(path: "deploy/regions/nats.conf").path

    var url: String { "nats://127.0.0.1:\(port)" }

    /// - Parameter configured: with the settings of a world, or with the server's own.
    init(configured: Bool = true) throws {
        folder = NSTemporaryDirectory() + "/nats-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        port = try Self.freePort()
        arguments =
            (configured ? ["-c", Self.worldConfiguration] : ["-js"])
            + ["-a", "127.0.0.1", "-p", "\(port)", "-sd", folder + "/store"]
        try start()
    }

    deinit {
        kill()
        try? FileManager.default.removeItem(atPath: folder)
    }

    /// Starts the server over what its store holds, and waits until it takes connections.
    func start() throws {
        guard let program = Self.program else { throw NoBus(description: "nats-server is not installed") }
        let output = folder + "/nats.log"
        if !FileManager.default.fileExists(atPath: output) {
            _ = FileManager.default.createFile(atPath: output, contents: nil)
        }
        let file = try FileHandle(forWritingTo: URL(filePath: output))
        try file.seekToEnd()
        let process = Process()
        process.executableURL = URL(filePath: program)
        process.arguments = arguments
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = file
        process.standardError = file
        try process.run()
        self.process = process
        guard eventually({ Self.answers(self.port) || !process.isRunning }), process.isRunning else {
            kill()
            let text = (try? String(contentsOfFile: output, encoding: .utf8)) ?? ""
            throw NoBus(description: "nats-server does not answer: \(text.suffix(2000))")
        }
    }

    /// SIGKILL to the server's own pid; returns when it is gone.
    func kill() {
        guard let process else { return }
        Glibc.kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
        self.process = nil
    }

    private static func withLoopback<Result>(
        port: UInt16, _ use: (_ descriptor: Int32, UnsafeMutablePointer<sockaddr>, inout socklen_t) -> Result
    ) -> Result {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(port.bigEndian)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        return withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { use(descriptor, $0, &length) }
        }
    }

    private static func answers(_ port: UInt16) -> Bool {
        withLoopback(port: port) { connect($0, $1, $2) == 0 }
    }

    private static func freePort() throws -> UInt16 {
        let port: UInt16? = withLoopback(port: 0) { descriptor, address, length in
            guard bind(descriptor, address, length) == 0, getsockname(descriptor, address, &length) == 0 else {
                return nil
            }
            return address.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
                UInt16(bigEndian: $0.pointee.sin_port)
            }
        }
        guard let port else { throw NoBus(description: "no port is free") }
        return port
    }
}

/// Asks again and again until it holds, within a bound that only a defect reaches.
func eventually(seconds: Double = 30, _ holds: () throws -> Bool) rethrows -> Bool {
    let end = Date(timeIntervalSinceNow: seconds)
    while Date.now < end {
        if try holds() { return true }
        usleep(5000)
    }
    return try holds()
}
