import Glibc
import HTTP

/// A server on a free port for the time of one test.
func withServer<R>(
    _ configure: (inout HTTPServer.Configuration) -> Void = { _ in }, routes: (inout Router) -> Void,
    _ body: (_ port: UInt16, _ server: HTTPServer) throws -> R
) throws -> R {
    var configuration = HTTPServer.Configuration()
    configure(&configuration)
    var router = Router()
    routes(&router)
    let server = HTTPServer(configuration: configuration, router: router)
    let port = try server.start()
    defer { server.stop(deadline: .seconds(2)) }
    return try body(port, server)
}

/// Waits until something holds, at most ten seconds.
func eventually(_ condition: () -> Bool) -> Bool {
    let end = ContinuousClock.now + .seconds(10)
    while ContinuousClock.now < end {
        if condition() { return true }
        usleep(5_000)
    }
    return condition()
}

extension HTTPServer {
    func metric(_ line: String) -> Double? {
        for text in String(decoding: metrics.render(), as: UTF8.self).split(separator: "\n")
        where text.hasPrefix(line + " ") {
            return Double(text.dropFirst(line.count + 1))
        }
        return nil
    }
}
