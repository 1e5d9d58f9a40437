import Testing

@testable import Replicate

@Suite struct SendingTimesTests {
    private let second: Int64 = 1_000_000

    /// The sender's clock has any origin; what is over the least way is how long a heartbeat waited.
    @Test(arguments: [0, -3_600_000_000, 77_000_000_000] as [Int64])
    func whatWaitedIsAsOldAsItIs(_ origin: Int64) {
        var times = SendingTimes()
        #expect(times.age(of: 1, sent: origin, read: 5000) == nil, "nothing to compare with")
        #expect(times.age(of: 1, sent: origin, read: 6000) == nil, "the same one again")
        #expect(times.age(of: 1, sent: origin + second, read: second + 5000) == 0)
        // Ten that waited while the reader stood still: each is as old as it is.
        for number in 2...11 as ClosedRange<Int64> {
            let age = times.age(of: 1, sent: origin + number * second, read: 11 * second + 5000)
            #expect(abs((age ?? -1) - (11 - number) * second) < 20_000)
        }
        #expect(abs((times.age(of: 1, sent: origin + 4 * second, read: 12 * second) ?? 0) - 8 * second) < 20_000)
    }

    /// A sender that began while the reader stood still is not believed until one of its heartbeats did not wait.
    @Test func aSenderThatIsFirstHeardLate() {
        var times = SendingTimes()
        for number in 0...9 as ClosedRange<Int64> {
            #expect(times.age(of: 1, sent: number * second, read: 9 * second + 400_000 + number) == nil)
        }
        // Out of order they confirm nothing either.
        #expect(times.age(of: 1, sent: 3 * second, read: 9 * second + 500_000) == nil)
        #expect(times.age(of: 1, sent: 10 * second, read: 10 * second + 1000) == nil, "earlier than could be")
        #expect(times.age(of: 1, sent: 11 * second, read: 11 * second + 1000) == 0)
        #expect((times.age(of: 1, sent: 5 * second, read: 11 * second + 1000) ?? 0) > 5 * second)
    }

    /// A reader's clock that stood still with its machine shows heartbeats earlier than could be.
    @Test func aReaderWhoseClockStoodStill() {
        var times = SendingTimes()
        _ = times.age(of: 1, sent: 0, read: 1000)
        #expect(times.age(of: 1, sent: second, read: second + 1000) == 0)
        for number in 2...9 as ClosedRange<Int64> {
            #expect(times.age(of: 1, sent: number * second, read: second + 2000) == nil)
        }
    }

    /// Clocks run apart: by a day's end by more than silence may last.
    @Test(arguments: [-100, 100] as [Int64])
    func clocksThatRunApart(_ parts: Int64) {
        var times = SendingTimes()
        _ = times.age(of: 1, sent: 0, read: 0)
        for number in 1...86_400 as ClosedRange<Int64> {
            let age = times.age(of: 1, sent: number * second, read: number * second + number * parts)
            guard let age, age < 2000 else { return #expect(Bool(false), "heartbeat \(number): \(age ?? -1)") }
        }
    }

    @Test func sendersAreBounded() {
        var times = SendingTimes()
        for sender in 1...10_000 as ClosedRange<UInt64> { _ = times.age(of: sender, sent: 0, read: Int64(sender)) }
        #expect(times.age(of: 1, sent: second, read: second) == nil)
        #expect(times.age(of: 10_000, sent: second, read: second + 10_000) == 0)
    }
}
