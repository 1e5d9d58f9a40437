import CMicroHTTPD
import Glibc

/// Wakes a daemon's thread every few milliseconds, while it has many connections.
///
/// libmicrohttpd 0.9.75 takes 128 events at a time from epoll, and when exactly 128 come it waits for more before it
/// looks at them, as long as its idle time-out allows. Any further event frees it, so there is one.
final class Alarm: Sendable {
    let descriptor: Int32

    init() throws(HTTPServerError) {
        descriptor = tl_alarm_create()
        if descriptor < 0 { throw .socket(call: "eventfd", code: errno) }
    }

    deinit { close(descriptor) }

    func ring() { tl_alarm_ring(descriptor) }
}
