import Foundation
import Synchronization

// QueryBench HOST:PORT PATHS CONCURRENCY SECONDS RATE OUT: asks for the paths of a file, in turn, over so many kept
// connections, a thread each; RATE questions a second in all, 0 for as many as are answered. Each question's line in OUT:
// when it was due (microseconds since 1970), how long its answer took from then (microseconds), its status (0: none came).
// With a rate the time counts from when the question was due: a server that stalls is not spared the questions it delayed.

let arguments = CommandLine.arguments
guard arguments.count == 7, let port = UInt16(arguments[1].split(separator: ":").last ?? ""),
    let concurrency = Int(arguments[3]), let seconds = Double(arguments[4]), let rate = Double(arguments[5])
else {
    FileHandle.standardError.write(Data("usage: QueryBench HOST:PORT PATHS CONCURRENCY SECONDS RATE OUT\n".utf8))
    exit(2)
}
let requests = try String(contentsOfFile: arguments[2], encoding: .utf8).split(separator: "\n").map { line in
    Array("GET \(line) HTTP/1.1\r\nHost: 127.0.0.1:\(port)\r\n\r\n".utf8)
}
precondition(!requests.isEmpty, "no paths")

let start = now() + 50_000
let end = start + seconds * 1e6
struct Answer {
    var due, took, status: Int
}

let answers = Mutex<[Answer]>([])
let group = DispatchGroup()
for worker in 0..<concurrency {
    group.enter()
    Thread.detachNewThread {
        let connection = Connection(port: port)
        var own: [Answer] = []
        var index = worker
        while true {
            let due = rate > 0 ? start + Double(index) * 1e6 / rate : max(start, now())
            if due >= end { break }
            let early = due - now()
            if early > 0 { usleep(UInt32(early)) }
            let began = rate > 0 ? due : now()
            let status = connection.ask(requests[index % requests.count])
            own.append(Answer(due: Int(began), took: Int(now() - began), status: status))
            index += concurrency
        }
        answers.withLock { [own] in $0 += own }
        group.leave()
    }
}
group.wait()
let lines = answers.withLock { $0 }.map { "\($0.due) \($0.took) \($0.status)\n" }
try lines.joined().write(toFile: arguments[6], atomically: true, encoding: .utf8)
