/// What a server counts by itself.
final class ServerMetrics: Sendable {
    enum Refusal: Int, CaseIterable {
        case framing, headerTooLarge, bodyTooLarge, deadline, connections, deferred, streams

        var status: Int {
            switch self {
            case .framing: 400
            case .headerTooLarge: 431
            case .bodyTooLarge: 413
            case .deadline: 408
            case .connections, .deferred, .streams: 503
            }
        }

        var label: String {
            switch self {
            case .framing: "framing"
            case .headerTooLarge: "header_too_large"
            case .bodyTooLarge: "body_too_large"
            case .deadline: "deadline"
            case .connections: "connections"
            case .deferred: "deferred"
            case .streams: "streams"
            }
        }
    }

    let connections: Gauge
    let streams: Gauge
    let slowStreams: Counter
    let handlerErrors: Counter
    let deferredTimeouts: Counter
    private let refusals: [Counter]
    /// By route and hundred of the status; the last row is of requests without a route.
    private let requests: [Counter]
    private let latencies: [Histogram]

    private static let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"]

    init(_ metrics: Metrics, routes: [String]) {
        connections = metrics.gauge("http_connections", help: "Connections that are open.")
        streams = metrics.gauge("http_event_streams", help: "Event streams that are open.")
        slowStreams = metrics.counter(
            "http_event_streams_cut_off_total", help: "Event streams that were ended because the client is too slow.")
        handlerErrors = metrics.counter("http_handler_errors_total", help: "Requests whose handler failed.")
        deferredTimeouts = metrics.counter(
            "http_deferred_timeouts_total", help: "Deferred answers whose time was up.")
        refusals = Refusal.allCases.map { refusal in
            metrics.counter(
                "http_refused_total", help: "Requests and connections that the server refused.",
                labels: [("reason", refusal.label)])
        }
        let names = routes + ["none"]
        requests = names.flatMap { route in
            Self.classes.map { code in
                metrics.counter(
                    "http_requests_total", help: "Requests that were answered, by route and class of status.",
                    labels: [("route", route), ("code", code)])
            }
        }
        latencies = names.map { route in
            metrics.histogram(
                "http_request_seconds", help: "Seconds from the end of a request's header to its answer.",
                labels: [("route", route)])
        }
    }

    func refuse(_ refusal: Refusal) { refusals[refusal.rawValue].increment() }

    func answered(_ match: Router.Match, status: Int, nanoseconds: UInt64) {
        let row = if case .route(let index) = match { index } else { latencies.count - 1 }
        requests[row * Self.classes.count + min(max(status / 100, 1), 5) - 1].increment()
        latencies[row].observe(Double(nanoseconds) * 1e-9)
    }
}
