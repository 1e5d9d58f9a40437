import CProcess
import Foundation
import Glibc
import Service

/// The outermost shell of a role: signals and the end of its parent. Threads of the role never see a signal.
enum RoleShell {
    /// Blocks the signals that `waitForEnd` waits for; call before any thread is made.
    static func prepare() {
        var signals = sigset_t()
        unsafe sigemptyset(&signals)
        for signal in [SIGTERM, SIGINT, SIGHUP] { unsafe sigaddset(&signals, signal) }
        unsafe pthread_sigmask(SIG_BLOCK, &signals, nil)
        signal(SIGPIPE, SIG_IGN)
        // A child of `up` ends with it, however it ends.
        if ProcessInfo.processInfo.environment["TIDELINE_PARENT"] != nil { tl_end_with_parent() }
        // Many arenas hold memory that nobody uses (rocksdb#3216): two are enough here.
        tl_limit_arenas(2)
    }

    /// Waits until a signal asks the role to end, or `failed` is stopped by one of its threads.
    static func waitForEnd(_ failed: StopSignal) -> Bool {
        var signals = sigset_t()
        unsafe sigemptyset(&signals)
        for signal in [SIGTERM, SIGINT, SIGHUP] { unsafe sigaddset(&signals, signal) }
        while true {
            var timeout = timespec(tv_sec: 0, tv_nsec: 200_000_000)
            let signal = unsafe sigtimedwait(&signals, nil, &timeout)
            if signal == SIGHUP { continue }
            if signal > 0 { return true }
            if failed.isStopped { return false }
        }
    }
}
