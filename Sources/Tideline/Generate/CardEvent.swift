import Edge
import HTTP

/// A simulated transaction as the JSON line that a core takes.
enum CardEvent {
    /// Appends a line. `time` is RFC 3339.
    static func append(
        _ transaction: CardSimulator.Transaction, id: String, number: Int, time: String, to bytes: inout [UInt8]
    ) {
        bytes.append(contentsOf: "{\"transaction_id\":\"".utf8)
        bytes.append(contentsOf: id.utf8)
        bytes.append(decimal: UInt64(number))
        bytes.append(contentsOf: "\",\"time\":\"".utf8)
        bytes.append(contentsOf: time.utf8)
        bytes.append(contentsOf: "\",\"customer_id\":\"c-".utf8)
        bytes.append(decimal: UInt64(transaction.customer))
        bytes.append(contentsOf: "\",\"terminal_id\":\"m-".utf8)
        bytes.append(decimal: UInt64(transaction.terminal))
        bytes.append(contentsOf: "\",\"amount\":".utf8)
        let cents = UInt64((transaction.amount * 100).rounded())
        bytes.append(decimal: cents / 100)
        bytes.append(UInt8(ascii: "."))
        bytes.append(UInt8(ascii: "0") + UInt8(cents / 10 % 10))
        bytes.append(UInt8(ascii: "0") + UInt8(cents % 10))
        bytes.append(contentsOf: ",\"scenario\":".utf8)
        bytes.append(decimal: UInt64(transaction.scenario))
        bytes.append(contentsOf: "}\n".utf8)
    }
}
