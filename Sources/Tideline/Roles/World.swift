import Foundation
import Glibc
import HTTP
import Replicate

/// A whole world on one machine: the bus, the core, the regions and a generator, as processes of their own.
final class World {
    struct Configuration {
        var dir: String
        var pipeline: String
        var partitions: Int?
        var kafka: String?
        /// Cores that share a Kafka log.
        var cores = 1
        /// Further cores, which wait for one of those to fall silent.
        var standbys = 0
        var regions: [String]
        var rate: String
        var freePorts: Bool
        /// Further arguments of the sealer.
        var sealer: [String] = []
        var endpoints: String?
    }

    let configuration: Configuration
    private(set) var children: [Child] = []
    private var ports: [String: Int] = [:]
    private let client: HTTPClient
    private var published = false
    private var publishedPids: [String: pid_t] = [:]
    private let lock: Int32

    init(_ configuration: Configuration) throws {
        self.configuration = configuration
        var options = HTTPClient.Configuration()
        options.connectTimeout = .milliseconds(500)
        options.timeout = .seconds(2)
        client = HTTPClient(configuration: options)
        try FileManager.default.createDirectory(atPath: "\(configuration.dir)/logs", withIntermediateDirectories: true)
        lock = unsafe open("\(configuration.dir)/lock", O_CREAT | O_RDWR | O_CLOEXEC, 0o644)
        guard lock >= 0, flock(lock, LOCK_EX | LOCK_NB) == 0 else {
            throw WorldError("another world runs in \(configuration.dir): stop it, or choose another --dir")
        }
        try choosePorts()
        try makeChildren()
    }

    func url(_ name: String) -> String { "\(name == "nats" ? "nats" : "http")://127.0.0.1:\(ports[name] ?? 0)" }

    private var coreCount: Int { configuration.cores + configuration.standbys }

    private func choosePorts() throws {
        var wanted: [(String, Int)] = [("core", 8400), ("sealer", 8405), ("nats", 8422)]
        for number in 1..<max(2, coreCount) where number < coreCount {
            wanted.append(("core-\(number)", 8430 + number))
        }
        for (index, region) in configuration.regions.enumerated() { wanted.append(("edge-\(region)", 8411 + index)) }
        for (name, port) in wanted {
            if configuration.freePorts {
                ports[name] = try Self.bind(0) ?? 0
            } else {
                guard try Self.bind(port) != nil else {
                    throw WorldError("port \(port) for \(name) is taken: end what uses it, or add --ports free")
                }
                ports[name] = port
            }
        }
    }

    /// The port, where it can be bound; 0 finds a free one.
    private static func bind(_ port: Int) throws -> Int? {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { throw WorldError(unsafe "no socket: \(String(cString: strerror(errno)))") }
        defer { close(descriptor) }
        var one: Int32 = 1
        unsafe setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, socklen_t(MemoryLayout<Int32>.size))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(UInt16(port).bigEndian)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        return unsafe withUnsafeMutablePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                guard unsafe Glibc.bind(descriptor, pointer, length) == 0,
                    unsafe getsockname(descriptor, pointer, &length) == 0
                else {
                    return nil
                }
                return unsafe Int(UInt16(bigEndian: UnsafeRawPointer(pointer).load(as: sockaddr_in.self).sin_port))
            }
        }
    }

    private func makeChildren() throws {
        let program = Places.program
        let dir = configuration.dir
        guard let nats = Self.find("nats-server") else {
            throw WorldError("nats-server is not installed: run `make setup`, or install Debian's package nats-server")
        }
        func child(_ name: String, _ arguments: [String], essential: Bool = true) {
            children.append(
                Child(name: name, arguments: arguments, output: "\(dir)/logs/\(name).log", isEssential: essential))
        }
        child(
            "nats",
            [
                program, "_child", nats, "-c", Places.file("deploy/regions/nats.conf"), "-a", "127.0.0.1", "-p",
                "\(ports["nats"] ?? 0)", "-sd", "\(dir)/nats",
            ])
        for number in 0..<coreCount {
            let name = number == 0 ? "core" : "core-\(number)"
            var core = [
                program, "core", "--dir", number == 0 ? dir : "\(dir)/\(name)", "--pipeline", configuration.pipeline,
                "--port", "\(ports[name] ?? 0)", "--nats", url("nats"),
            ]
            if let partitions = configuration.partitions { core += ["--partitions", "\(partitions)"] }
            if let kafka = configuration.kafka {
                core += ["--kafka", kafka]
                // Who stands by takes whichever place is free; without one each process has its own, at once.
                core += configuration.standbys > 0 ? ["--cores", "\(configuration.cores)"] : ["--slot", "\(number)"]
            }
            child(name, core)
        }
        try makeKeys()
        child(
            "sealer",
            [
                program, "sealer", "--dir", dir, "--pipeline", configuration.pipeline, "--nats", url("nats"), "--port",
                "\(ports["sealer"] ?? 0)",
            ] + configuration.sealer)
        for region in configuration.regions {
            let peers = configuration.regions.filter { $0 != region }.map { "\($0)=\(url("edge-\($0)"))" }
            var arguments = [
                program, "edge", "--region", region, "--dir", dir, "--pipeline", configuration.pipeline, "--port",
                "\(ports["edge-\(region)"] ?? 0)", "--nats", url("nats"),
            ]
            if !peers.isEmpty { arguments += ["--peers", peers.joined(separator: ",")] }
            child("edge-\(region)", arguments)
        }
        if configuration.rate != "0" {
            child("generator", [program, "generate", "--to", url("core"), "--rate", configuration.rate])
        }
    }

    /// The world's own pair of keys, once.
    private func makeKeys() throws {
        let folder = "\(configuration.dir)/keys"
        let key = "\(folder)/\(KeysCommand.privateName)"
        let trusted = "\(folder)/\(KeysCommand.publicName)"
        guard !FileManager.default.fileExists(atPath: trusted) else { return }
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        // A crash between the two files left one that nobody trusts yet.
        if FileManager.default.fileExists(atPath: key) { try FileManager.default.removeItem(atPath: key) }
        let pair = try SigningKey()
        try pair.save(to: key)
        try pair.savePublic(to: trusted)
    }

    private static func find(_ program: String) -> String? {
        let path = (ProcessInfo.processInfo.environment["PATH"] ?? "") + ":/usr/sbin:/usr/local/sbin:/usr/local/bin"
        return path.split(separator: ":").map { "\($0)/\(program)" }.first { unsafe access($0, X_OK) == 0 }
    }

    // MARK: life

    /// Starts everything. The generator waits until the regions are fresh.
    func start() throws { for child in children where child.name != "generator" { try child.start() } }

    /// Reaps what ended and starts it again; tells what happened.
    func tend(_ tell: (String) -> Void) throws {
        for child in children {
            if let ending = child.reap() {
                tell("\(child.name) has ended (\(ending))" + (child.isEssential ? "; it is started again" : ""))
            }
            if try child.restartIfDue() { tell("\(child.name) runs again") }
        }
        if published { try publishEndpoints() }
    }

    /// How the regions stand; a region that does not answer is missing.
    func regionStates() -> [String: [String: Any]] {
        var states: [String: [String: Any]] = [:]
        for region in configuration.regions { states[region] = status("edge-\(region)") }
        return states
    }

    func status(_ name: String) -> [String: Any]? {
        guard let answer = try? client.get(url(name) + "/v1/status"), answer.status == 200 else { return nil }
        return (try? JSONSerialization.jsonObject(with: Data(answer.body))) as? [String: Any]
    }

    /// Every region is fresh: from now on the endpoints file stands, and traffic flows.
    func becameReady() throws {
        if let generator = children.first(where: { $0.name == "generator" }) { try generator.start() }
        published = true
        try publishEndpoints()
    }

    /// Writes the endpoints file whole, by rename, whenever a process id has changed.
    private func publishEndpoints() throws {
        guard let path = configuration.endpoints else { return }
        var pids: [String: pid_t] = [:]
        for child in children where child.isRunning { pids[child.name] = child.pid }
        guard pids != publishedPids else { return }
        var regions: [String: String] = [:]
        for region in configuration.regions { regions[region] = url("edge-\(region)") }
        let content: [String: Any] = [
            "core": url("core"), "console": NSNull(), "nats": url("nats"),
            "kafka": configuration.kafka.map { $0 as Any } ?? NSNull(), "regions": regions,
            "pids": pids.mapValues { Int($0) },
        ]
        let data = try JSONSerialization.data(
            withJSONObject: content, options: [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
        try data.write(to: URL(filePath: path), options: .atomic)
        publishedPids = pids
    }

    /// Ends everything in the order of the flow: what makes events first, the bus last.
    func stop() {
        if published, let path = configuration.endpoints { try? FileManager.default.removeItem(atPath: path) }
        let cores = children.map(\.name).filter { $0.hasPrefix("core") }
        let order = ["generator"] + cores + configuration.regions.map { "edge-\($0)" } + ["sealer", "nats"]
        for name in order { children.first { $0.name == name }?.stop(seconds: 25) }
        close(lock)
    }
}
