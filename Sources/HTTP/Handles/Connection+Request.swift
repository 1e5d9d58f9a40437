import CMicroHTTPD
import Glibc
import Synchronization

// The steps of a request, each on the daemon's thread: begin (header complete), take (a piece of the body), answer.
extension Connection {
    /// Checks the header and chooses the route.
    func begin(_ handle: OpaquePointer, method name: UnsafePointer<CChar>, version: UnsafePointer<CChar>) -> MHD_Result
    {
        unsafe self.handle = unsafe handle
        isBegun = true
        discarded = 0
        engine.inFlight.wrappingAdd(1, ordering: .relaxed)
        receivedNanoseconds = Monotonic.now
        let framing = unsafe tl_mhd_scan(handle)
        let hasBody = framing.transfer_encodings > 0 || framing.content_length > 0
        if stage.load(ordering: .acquiring) == .refused { return hasBody ? .YES : .NO }
        if let (kind, detail) = unsafe refusal(framing, handle, version: version) {
            return refuse(kind, detail, hasBody: hasBody)
        }
        unsafe method = Method(name)
        match = engine.router.match(method, target, length: pathLength, parameters: &parameters)
        bodyBytesMax = route?.bodyBytesMax ?? engine.configuration.bodyBytesMax
        if framing.content_length > UInt64(bodyBytesMax) {
            return refuse(.bodyTooLarge, "the body may have \(bodyBytesMax) bytes", hasBody: true)
        }
        if !decodeParameters() { return refuse(.framing, "the path has a dot segment", hasBody: hasBody) }
        if hasBody {
            body.reserveCapacity(min(Int(framing.content_length), 64 << 10))
            let limit = receivedNanoseconds + engine.configuration.bodyDeadline.nanoseconds
            return advance(to: .body, deadline: limit) ? .YES : .NO
        }
        return advance(to: .answering, deadline: 0) ? .YES : .NO
    }

    /// Takes a piece of the body, or discards it when the request was refused.
    func take(_ bytes: UnsafeRawBufferPointer) -> MHD_Result {
        if stage.load(ordering: .acquiring) == .refused {
            discarded += bytes.count
            return discarded > engine.configuration.discardBytesMax ? .NO : .YES
        }
        if body.count + bytes.count > bodyBytesMax {
            body = []
            return refuse(.bodyTooLarge, "the body may have \(bodyBytesMax) bytes", hasBody: true)
        }
        unsafe body.append(contentsOf: bytes)
        return .YES
    }

    /// The request is complete: runs its handler, or sends what a waiter was given meanwhile.
    func answer(_ handle: OpaquePointer) -> MHD_Result {
        switch stage.load(ordering: .acquiring) {
        case .refused, .killed: return .NO
        default: break
        }
        if let waiter {
            guard let response = waiter.taken else {
                unsafe waiter.suspend(handle)
                return .YES
            }
            return unsafe send(response, on: handle)
        }
        if !advance(to: .answering, deadline: 0) { return .NO }
        return unsafe send(respond(), on: handle)
    }

    /// The library is done with the request, however it ended.
    func completed() {
        if isBegun { engine.inFlight.wrappingSubtract(1, ordering: .relaxed) }
        finish()
        if stage.load(ordering: .acquiring) == .refused { return }
        let configuration = engine.configuration
        let wait = configuration.idleTimeout.nanoseconds + configuration.headerDeadline.nanoseconds
        _ = advance(to: .header, deadline: Monotonic.now + wait)
    }

    // MARK: Private

    private func refuse(_ kind: ServerMetrics.Refusal, _ detail: String, hasBody: Bool) -> MHD_Result {
        engine.counts.refuse(kind)
        if stage.load(ordering: .acquiring) == .killed { return .NO }
        deadline.store(Monotonic.now + engine.configuration.bodyDeadline.nanoseconds, ordering: .relaxed)
        refuse(kind.status, detail)
        return hasBody ? .YES : .NO
    }

    private func refusal(
        _ framing: tl_mhd_framing, _ handle: OpaquePointer, version: UnsafePointer<CChar>
    ) -> (ServerMetrics.Refusal, String)? {
        if unsafe tl_mhd_header_bytes(handle) > engine.configuration.headerBytesMax {
            return (.headerTooLarge, "the header may have \(engine.configuration.headerBytesMax) bytes")
        }
        let isOld = unsafe strcmp(version, "HTTP/1.0") == 0
        if unsafe !isOld && strcmp(version, "HTTP/1.1") != 0 { return (.framing, "this server speaks HTTP/1.1") }
        // Between the target and the version stands one space; more means that a NUL or blanks are in the target.
        if Int(bitPattern: version) - targetAddress != target.count + 1 || !splitTarget() {
            return (.framing, "the request's target is malformed")
        }
        if framing.malformed { return (.framing, "a header line is malformed") }
        if framing.hosts > 1 || (framing.hosts == 0 && !isOld) { return (.framing, "exactly one Host is needed") }
        if framing.content_lengths > 1 { return (.framing, "Content-Length is repeated") }
        if framing.transfer_encodings > 0 {
            if framing.content_lengths > 0 {
                return (.framing, "Transfer-Encoding and Content-Length exclude each other")
            }
            if framing.transfer_encodings > 1 || !framing.chunked || isOld {
                return (.framing, "the only Transfer-Encoding is chunked")
            }
        }
        return nil
    }

    private func respond() -> Response {
        switch match {
        case .route(let index):
            do {
                return try engine.router.routes[index].handler(Request(self))
            } catch let problem as Problem {
                return problem.response
            } catch {
                engine.counts.handlerErrors.increment()
                return Problem(status: 500).response
            }
        case .notFound:
            return Problem(status: 404, detail: "nothing is at this path").response
        case .notAllowed(let endpoint):
            let allow = engine.router.allow(endpoint)
            return Problem(status: 405, detail: "allowed: \(allow)", headers: ["Allow": allow]).response
        case .options(let endpoint):
            let allow = engine.router.allow(endpoint)
            var headers: HeaderBlock = ["Allow": allow]
            if let cors = engine.router.cors, unsafe header("Access-Control-Request-Method") != nil {
                headers.append(contentsOf: cors.preflight(allow: allow))
            }
            return .empty(headers: headers)
        }
    }

    private func send(_ response: Response, on handle: OpaquePointer) -> MHD_Result {
        switch response.content {
        case .bytes(let bytes, let recycles): return unsafe sendWhole(response, bytes, recycles: recycles, on: handle)
        case .deferred(let deferral): return unsafe wait(for: deferral, on: handle)
        case .stream(let stream): return unsafe open(stream, response, on: handle)
        }
    }

    private func sendWhole(
        _ response: consuming Response, _ bytes: consuming [UInt8], recycles: Bool, on handle: OpaquePointer
    ) -> MHD_Result {
        let now = Monotonic.now
        let status = response.status
        response.content = .bytes([], recycles: false)
        if unsafe queue(response, bytes: bytes, recycles: recycles, on: handle) != .YES {
            engine.counts.handlerErrors.increment()
            return .NO
        }
        deadline.store(now + engine.configuration.answerDeadline.nanoseconds, ordering: .relaxed)
        engine.counts.answered(match, status: status, nanoseconds: now - receivedNanoseconds)
        return .YES
    }

    private func wait(for deferral: Deferral, on handle: OpaquePointer) -> MHD_Result {
        let waiter = Waiter(deferral)
        guard engine.add(waiter) else {
            engine.counts.refuse(.deferred)
            return unsafe send(deferral.fallback, on: handle)
        }
        self.waiter = waiter
        unsafe waiter.suspend(handle)
        deferral.start(Responder(waiter: waiter))
        return .YES
    }

    private func open(_ stream: EventStream, _ response: Response, on handle: OpaquePointer) -> MHD_Result {
        guard unsafe stream.open(self, handle) else {
            engine.counts.handlerErrors.increment()
            return unsafe send(Problem(status: 500).response, on: handle)
        }
        guard engine.add(stream) else {
            engine.counts.refuse(.streams)
            stream.closed()
            let problem = Problem(status: 503, detail: "no more event streams are taken", headers: ["Retry-After": "5"])
            return unsafe send(problem.response, on: handle)
        }
        engine.counts.answered(match, status: response.status, nanoseconds: Monotonic.now - receivedNanoseconds)
        return unsafe queue(stream, response, on: handle)
    }
}
