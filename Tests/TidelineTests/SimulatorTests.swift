import Testing

@testable import Tideline

@Suite struct SimulatorTests {
    @Test func theSameSeedMakesTheSameDays() {
        var a = CardSimulator(customers: 200, terminals: 300, seed: 7)
        var b = CardSimulator(customers: 200, terminals: 300, seed: 7)
        for day in 0..<10 {
            let (x, y) = (a.historicalDay(day), b.historicalDay(day))
            #expect(
                x.count == y.count
                    && zip(x, y).allSatisfy { $0.second == $1.second && $0.transaction.amount == $1.transaction.amount }
            )
        }
    }

    @Test func fraudIsOfThreeKinds() {
        var simulator = CardSimulator(customers: 2000, terminals: 4000, seed: 3)
        var counts = [0, 0, 0, 0]
        for day in 0..<40 {
            for (_, transaction) in simulator.historicalDay(day) {
                counts[transaction.scenario] += 1
                if transaction.amount > 220 { #expect(transaction.scenario > 0) }
                #expect(transaction.amount >= 0)
            }
        }
        #expect(counts.allSatisfy { $0 > 0 })
        let frauds = counts[1...].reduce(0, +)
        #expect(frauds * 100 / counts[0] < 6, "fraud is rare: \(counts)")
    }

    @Test func fraudIsAsOftenAsDescribed() {
        // The public data of the description: 5,000 customers, 10,000 terminals, 183 days; .837 % are fraud, of which 7 %,
        // 62 % and 32 % by scenario.
        var simulator = CardSimulator(customers: 5000, terminals: 10_000, seed: 5)
        var counts = [0.0, 0, 0, 0]
        for day in 0..<42 { for (_, one) in simulator.historicalDay(day) where day >= 28 { counts[one.scenario] += 1 } }
        let total = counts.reduce(0, +)
        let fraud = total - counts[0]
        #expect((8000...11_000).contains(total / 14), "events a day: \(total / 14)")
        #expect((0.006...0.013).contains(fraud / total), "\(counts)")
        #expect(counts[1] < counts[3] && counts[3] < counts[2], "\(counts)")
    }

    @Test func aDayIsInTheOrderOfItsTimes() {
        var simulator = CardSimulator(customers: 500, terminals: 500, seed: 1)
        let seconds = simulator.historicalDay(0).map(\.second)
        #expect(seconds == seconds.sorted() && seconds.allSatisfy { $0 > 0 && $0 < 86_400 })
        let noon = seconds.filter { $0 > 23_200 && $0 < 63_200 }.count
        #expect((0.6...0.76).contains(Double(noon) / Double(seconds.count)), "two thirds lie within one deviation")
    }

    @Test func liveTrafficBeginsWithAllFraudUnderWay() {
        var simulator = CardSimulator(customers: 5000, terminals: 10_000, seed: 1)
        simulator.begin(day: LiveTraffic.firstDay)
        var counts = [0, 0, 0, 0]
        for _ in 0..<20_000 { counts[simulator.next().scenario] += 1 }
        #expect(counts.allSatisfy { $0 > 0 }, "\(counts)")
    }

    @Test(arguments: [
        (0.0, "0.00"), (0.05, "0.05"), (7, "7.00"), (12.34, "12.34"), (1234.5, "1234.50"), (0.29, "0.29"),
    ])
    func anEventIsOneLine(_ amount: Double, _ written: String) {
        var bytes: [UInt8] = []
        let transaction = CardSimulator.Transaction(customer: 17, terminal: 4711, amount: amount, scenario: 2)
        CardEvent.append(transaction, id: "t-", number: 3, time: "2026-01-01T00:00:00.000001Z", to: &bytes)
        #expect(
            String(decoding: bytes, as: UTF8.self)
                == #"{"transaction_id":"t-3","time":"2026-01-01T00:00:00.000001Z","customer_id":"c-17","#
                + #""terminal_id":"m-4711","amount":\#(written),"scenario":2}"# + "\n")
    }
}
