import CProcess
import Foundation
import Glibc

/// One child process of a world: its output goes to a file, and it ends when this process does.
///
/// Not thread-safe: the supervisor's thread alone uses it.
final class Child {
    let name: String
    let arguments: [String]
    private let output: String
    private(set) var pid: pid_t = 0
    private(set) var restarts = 0
    private var startedAt = Date.distantPast
    private var delay = 1.0
    private var restartAt: Date?
    /// A child that is not started again when it ends, such as a generator that has done its work.
    let isEssential: Bool

    init(name: String, arguments: [String], output: String, isEssential: Bool = true) {
        self.name = name
        self.arguments = arguments
        self.output = output
        self.isEssential = isEssential
    }

    var isRunning: Bool { pid > 0 }

    func start() throws {
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        unsafe posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_APPEND, 0o644)
        unsafe posix_spawn_file_actions_adddup2(&actions, 1, 2)
        var attributes = posix_spawnattr_t()
        unsafe posix_spawnattr_init(&attributes)
        defer { unsafe posix_spawnattr_destroy(&attributes) }
        // A group of its own: Ctrl-C reaches the supervisor alone, which ends its children in order.
        unsafe posix_spawnattr_setpgroup(&attributes, 0)
        var none = sigset_t()
        unsafe sigemptyset(&none)
        unsafe posix_spawnattr_setsigmask(&attributes, &none)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK))
        var environment = ProcessInfo.processInfo.environment
        environment["TIDELINE_PARENT"] = "\(getpid())"
        environment["MALLOC_ARENA_MAX"] = "2"
        var argv: [UnsafeMutablePointer<CChar>?] = unsafe cStrings(arguments)
        var envp: [UnsafeMutablePointer<CChar>?] = unsafe cStrings(environment.map { "\($0.key)=\($0.value)" })
        defer { unsafe (argv + envp).forEach { unsafe free($0) } }
        let code = unsafe posix_spawn(&pid, arguments[0], &actions, &attributes, &argv, &envp)
        guard code == 0 else {
            pid = 0
            throw WorldError(unsafe "\(arguments[0]) cannot be started: \(String(cString: strerror(code)))")
        }
        startedAt = Date()
        restartAt = nil
    }

    /// Takes note of the child's end. Returns how it ended, once.
    func reap() -> String? {
        guard pid > 0 else { return nil }
        var status: Int32 = 0
        guard unsafe waitpid(pid, &status, WNOHANG) == pid else { return nil }
        pid = 0
        // One that ran for a while starts again after a second; one that keeps dying is tried ever less often.
        delay = Date().timeIntervalSince(startedAt) > 2 ? 1 : min(delay * 2, 30)
        restartAt = Date(timeIntervalSinceNow: delay == 2 ? 1 : delay)
        return status & 0x7F == 0 ? "exit \(status >> 8 & 0xFF)" : "signal \(status & 0x7F)"
    }

    /// Starts the child again when its time has come. Returns whether it did.
    func restartIfDue() throws -> Bool {
        guard isEssential, pid == 0, let due = restartAt, Date() >= due else { return false }
        restarts += 1
        try start()
        return true
    }

    /// Asks the child to end, and kills it when it does not within so long.
    func stop(seconds: Double) {
        guard pid > 0 else { return }
        kill(pid, SIGTERM)
        let deadline = Date(timeIntervalSinceNow: seconds)
        while pid > 0, Date() < deadline {
            if reap() == nil { usleep(20_000) }
        }
        if pid > 0 {
            kill(pid, SIGKILL)
            var status: Int32 = 0
            unsafe waitpid(pid, &status, 0)
            pid = 0
        }
    }

    /// The end of what the child has written, for an error.
    var tail: String {
        guard let data = FileManager.default.contents(atPath: output) else { return "" }
        return String(decoding: data.suffix(2000), as: UTF8.self).split(separator: "\n").suffix(5).joined(
            separator: "\n")
    }
}

/// Copies for `exec`'s vectors, ended by a null pointer; the caller frees them, or becomes another program.
private func cStrings(_ texts: [String]) -> [UnsafeMutablePointer<CChar>?] {
    var copies = unsafe texts.map { unsafe strdup($0) }
    unsafe copies.append(nil)
    return unsafe copies
}

struct WorldError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// `tideline _child PROGRAM …`: becomes another program that ends with its parent.
enum ChildCommand {
    static func run(_ arguments: [String]) -> Int32 {
        tl_end_with_parent()
        var argv: [UnsafeMutablePointer<CChar>?] = unsafe cStrings(arguments)
        unsafe execvp(arguments[0], &argv)
        return 127
    }
}
