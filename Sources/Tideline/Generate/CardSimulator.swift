import Foundation

/// Card transactions with three scenarios of fraud, from a seed.
///
/// Method: the data simulator that the Fraud Detection Handbook (Le Borgne et al., ULB) describes, written from the
/// description: customers spend around their own mean, at terminals near them, mostly by day. Scenario 1: an amount over
/// 220. Scenario 2: each day two terminals are compromised for 28 days. Scenario 3: each day three customers' cards are
/// stolen for 14 days, a third of their transactions are five times as large.
struct CardSimulator {
    struct Transaction {
        var customer: Int
        var terminal: Int
        var amount: Double
        var scenario: Int
    }

    private struct Customer {
        var mean: Double
        var perDay: Double
        var terminals: [Int]
    }

    private var random: SplitMix64
    private var customers: [Customer] = []
    /// Cumulated rates, for drawing a customer in proportion to its rate.
    private var cumulated: [Double] = []
    private let terminalCount: Int
    private var compromised: [Int: Int] = [:]
    private var stolen: [Int: Int] = [:]
    private var day = -1

    init(customers count: Int, terminals: Int, seed: UInt64) {
        random = SplitMix64(state: seed)
        terminalCount = terminals
        // Terminals in cells, so that those within a customer's radius are found at once.
        let radius = 5.0
        var cells: [Int: [(x: Double, y: Double, id: Int)]] = [:]
        for id in 0..<terminals {
            let (x, y) = (random.unit() * 100, random.unit() * 100)
            cells[Int(x / radius) * 100 + Int(y / radius), default: []].append((x, y, id))
        }
        var total = 0.0
        for _ in 0..<count {
            let (x, y) = (random.unit() * 100, random.unit() * 100)
            var near: [Int] = []
            for dx in -1...1 {
                for dy in -1...1 {
                    for terminal in cells[(Int(x / radius) + dx) * 100 + Int(y / radius) + dy] ?? []
                    where (terminal.x - x) * (terminal.x - x) + (terminal.y - y) * (terminal.y - y) < radius * radius {
                        near.append(terminal.id)
                    }
                }
            }
            if near.isEmpty { near = [Int(random.next() % UInt64(max(1, terminals)))] }
            let customer = Customer(mean: 5 + random.unit() * 95, perDay: random.unit() * 4, terminals: near)
            customers.append(customer)
            total += customer.perDay
            cumulated.append(total)
        }
    }

    /// Transactions of all customers in a day, on average.
    var perDay: Double { cumulated.last ?? 0 }

    /// Moves the scenarios on to a day, counted from 0.
    mutating func begin(day target: Int) {
        while day < target {
            day += 1
            for _ in 0..<2 { compromised[random.below(terminalCount)] = day + 28 }
            for _ in 0..<3 { stolen[random.below(customers.count)] = day + 14 }
        }
    }

    /// One transaction of the current day.
    mutating func next() -> Transaction {
        let target = random.unit() * perDay
        var low = 0
        var high = cumulated.count - 1
        while low < high {
            let middle = (low + high) / 2
            if cumulated[middle] < target { low = middle + 1 } else { high = middle }
        }
        return transaction(of: low)
    }

    mutating func transaction(of index: Int) -> Transaction {
        let customer = customers[index]
        var amount = customer.mean + customer.mean / 2 * random.normal()
        if amount < 0 { amount = random.unit() * 2 * customer.mean }
        var result = Transaction(
            customer: index, terminal: customer.terminals[random.below(customer.terminals.count)],
            amount: (amount * 100).rounded() / 100, scenario: 0)
        if let until = stolen[index], day < until, random.below(3) == 0 {
            result.amount = (result.amount * 500).rounded() / 100
            result.scenario = 3
        }
        if let until = compromised[result.terminal], day < until { result.scenario = 2 }
        if result.amount > 220, result.scenario == 0 { result.scenario = 1 }
        return result
    }

    /// A whole day's transactions in the order of time: seconds of the day, and what happened.
    mutating func historicalDay(_ number: Int) -> [(second: Double, transaction: Transaction)] {
        begin(day: number)
        var result: [(second: Double, transaction: Transaction)] = []
        for index in customers.indices {
            for _ in 0..<random.poisson(customers[index].perDay) {
                let second = 43_200 + 20_000 * random.normal()
                guard second > 0, second < 86_400 else { continue }
                result.append((second, transaction(of: index)))
            }
        }
        return result.sorted { $0.second < $1.second }
    }
}

/// A small generator whose stream is the same on every machine. Method: SplitMix64 (Steele et al., 2014).
struct SplitMix64: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    mutating func unit() -> Double { Double(next() >> 11) / 9_007_199_254_740_992 }

    mutating func below(_ bound: Int) -> Int { Int(next().multipliedFullWidth(by: UInt64(bound)).high) }

    /// Method: Box and Muller.
    mutating func normal() -> Double {
        (-2 * log(1 - unit())).squareRoot() * cos(2 * .pi * unit())
    }

    /// Method: Knuth's product of uniforms, for small means.
    mutating func poisson(_ mean: Double) -> Int {
        let limit = exp(-mean)
        var count = 0
        var product = unit()
        while product > limit {
            count += 1
            product *= unit()
        }
        return count
    }
}
