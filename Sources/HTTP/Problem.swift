/// A problem as RFC 9457 writes it; thrown by a handler, it becomes the answer.
package struct Problem: Error, Sendable {
    /// A URI reference that names the kind of problem; `about:blank` says no more than the status does.
    package var type: String
    package var title: String
    package var status: Int
    package var detail: String?
    package var instance: String?
    /// Further members, in this order. The five names of the standard may not be among them.
    package var members: [(name: String, value: Member)]
    package var headers: HeaderBlock

    package enum Member: Sendable {
        case string(String)
        case integer(Int64)
        case number(Double)
        case bool(Bool)
        case strings([String])
    }

    package init(
        status: Int, title: String? = nil, detail: String? = nil, type: String = "about:blank", instance: String? = nil,
        members: [(name: String, value: Member)] = [], headers: HeaderBlock = HeaderBlock()
    ) {
        self.status = status
        self.title = title ?? Problem.phrase(status)
        self.detail = detail
        self.type = type
        self.instance = instance
        self.members = members
        self.headers = headers
    }

    package static func badRequest(_ detail: String) -> Problem { Problem(status: 400, detail: detail) }
    package static func notFound(_ detail: String) -> Problem { Problem(status: 404, detail: detail) }

    package func write(to json: inout JSONWriter) {
        json.beginObject()
        json.member("type", type)
        json.member("title", title)
        json.member("status", status)
        if let detail { json.member("detail", detail) }
        if let instance { json.member("instance", instance) }
        for (name, value) in members where !Self.standardMembers.contains(name) {
            json.key(name)
            switch value {
            case .string(let text): json.value(text)
            case .integer(let number): json.value(number)
            case .number(let number): json.value(number)
            case .bool(let flag): json.value(flag)
            case .strings(let texts):
                json.beginArray()
                for text in texts { json.value(text) }
                json.endArray()
            }
        }
        json.endObject()
    }

    package var response: Response {
        var json = JSONWriter()
        write(to: &json)
        return Response(status: status, contentType: .problem, headers: headers, body: json.bytes)
    }

    private static let standardMembers: Set<String> = ["type", "title", "status", "detail", "instance"]

    static func phrase(_ status: Int) -> String {
        switch status {
        case 400: "Bad Request"
        case 401: "Unauthorized"
        case 403: "Forbidden"
        case 404: "Not Found"
        case 405: "Method Not Allowed"
        case 408: "Request Timeout"
        case 409: "Conflict"
        case 413: "Content Too Large"
        case 415: "Unsupported Media Type"
        case 422: "Unprocessable Content"
        case 429: "Too Many Requests"
        case 431: "Request Header Fields Too Large"
        case 500: "Internal Server Error"
        case 501: "Not Implemented"
        case 503: "Service Unavailable"
        case 504: "Gateway Timeout"
        default: "Status \(status)"
        }
    }
}
