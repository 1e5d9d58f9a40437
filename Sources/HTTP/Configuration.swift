extension HTTPServer {
    /// How a server listens, and what it lets clients do.
    package struct Configuration: Sendable {
        /// The numeric IPv4 or IPv6 address that is listened on; never "all" unless it is written here.
        package var address = "127.0.0.1"
        /// The TCP port; 0 takes a free one, which `start()` returns.
        package var port: UInt16 = 0
        /// Threads that read and answer; a connection stays with the one that had the fewest when it came.
        package var threads = 2
        /// Connections that may be open at once, over all threads; one beyond is answered 503 and closed.
        package var connectionsMax = 4096
        /// The time without a byte in either direction after which a connection is closed; whole seconds, at least 1.
        package var idleTimeout: Duration = .seconds(30)
        /// The time from accepting a connection to the end of its request's header; the same for each later request,
        /// counted from the end of `idleTimeout`.
        package var headerDeadline: Duration = .seconds(10)
        /// The time from the end of the header to the end of the body.
        package var bodyDeadline: Duration = .seconds(30)
        /// The time a handler is told to answer within (`Request.deadline`); nothing is stopped when it ends.
        package var requestDeadline: Duration = .seconds(10)
        /// The time from the start of a whole answer until the client must have taken it.
        package var answerDeadline: Duration = .seconds(60)
        /// The largest body of a request, in bytes, where its route says nothing else.
        package var bodyBytesMax = 1 << 20
        /// The largest request line with header, in bytes; more is answered 431.
        package var headerBytesMax = 8 << 10
        /// The most that is read and thrown away of a body that was refused, in bytes, so that the client can read why.
        package var discardBytesMax = 1 << 20
        /// The time between comments on an event stream on which nothing else happens.
        package var heartbeatInterval: Duration = .seconds(10)
        /// Open event streams, over all threads; one beyond is answered 503.
        package var streamsMax = 2048
        /// Answers that may wait (`Response.deferred`) at once; one beyond is answered with its fallback.
        package var deferredMax = 4096
        /// Header lines of every answer.
        package var headers = HeaderBlock()

        package init() {}
    }
}

/// What went wrong with a server.
package enum HTTPServerError: Error, Sendable, Equatable {
    /// The address is no numeric IPv4 or IPv6 address.
    case address(String)
    /// A system call failed when the socket was made, with its errno.
    case socket(call: String, code: Int32)
    /// The library did not start a thread.
    case daemon
    /// The server was started before; one object is one run.
    case startedBefore
}
