import Changes
import Glibc

/// A file that is written in large pieces; `-` is standard output.
final class OutputFile {
    private let path: String
    private let descriptor: Int32
    private(set) var bytes: [UInt8] = []

    init(path: String) throws {
        self.path = path
        descriptor =
            unsafe path == "-" ? dup(STDOUT_FILENO) : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else {
            throw InputError("\(path) cannot be written: \(unsafe String(cString: strerror(errno)))")
        }
    }

    deinit { close(descriptor) }

    /// Lets `change` append, and writes when there is much.
    func append(_ change: (inout [UInt8]) -> Void) throws {
        change(&bytes)
        if bytes.count >= 1 << 20 { try flush() }
    }

    /// Writes what is left. Needed at the end: `deinit` cannot tell of a full disk.
    func flush() throws {
        var done = 0
        while done < bytes.count {
            let wrote = unsafe bytes.withUnsafeBytes {
                unsafe Glibc.write(descriptor, $0.baseAddress! + done, $0.count - done)
            }
            if wrote < 0, errno == EINTR { continue }
            guard wrote > 0 else {
                throw InputError("\(path) cannot be written: \(unsafe String(cString: strerror(errno)))")
            }
            done += wrote
        }
        bytes.removeAll(keepingCapacity: true)
    }
}

/// Simulated transactions as a file: whole days of history, or live traffic's pace on a clock of its own.
struct EventFile {
    let out: OutputFile
    /// `id,scenario` of each fraud.
    let labels: OutputFile?
    /// Microseconds since 1970 of the first day.
    let start: Int64
    let prefix: String
    private(set) var count = 0

    init(out: OutputFile, labels: OutputFile?, start: Int64, prefix: String) throws {
        self.out = out
        self.labels = labels
        self.start = start
        self.prefix = prefix
        try labels?.append { $0.append(contentsOf: "id,scenario\n".utf8) }
    }

    /// Whole days, events in the order of their times.
    mutating func write(days: Int, of simulator: inout CardSimulator, _ show: (Int) -> Void) throws {
        for day in 0..<days {
            for (second, transaction) in simulator.historicalDay(day) {
                try write(transaction, time: start + Int64(day) * 86_400_000_000 + Int64(second * 1_000_000))
            }
            show(day + 1)
        }
        try flush()
    }

    /// So many seconds of live traffic.
    mutating func write(seconds: Double, rate: Double, daySeconds: Double, of simulator: inout CardSimulator) throws {
        let total = Int(seconds * rate)
        for index in 0..<total {
            let second = Double(index) / rate
            simulator.begin(day: LiveTraffic.firstDay + Int(second / daySeconds))
            try write(simulator.next(), time: start + Int64(second * 1_000_000))
        }
        try flush()
    }

    private mutating func write(_ transaction: CardSimulator.Transaction, time: Int64) throws {
        let number = count
        count += 1
        try out.append {
            CardEvent.append(transaction, id: prefix, number: number, time: Timestamp.text(time), to: &$0)
        }
        guard transaction.scenario > 0, let labels else { return }
        try labels.append { $0.append(contentsOf: "\(prefix)\(number),\(transaction.scenario)\n".utf8) }
    }

    private func flush() throws {
        try out.flush()
        try labels?.flush()
    }
}
