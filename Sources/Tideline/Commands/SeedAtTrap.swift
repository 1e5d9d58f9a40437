import Foundation
import Glibc
import Synchronization

/// A history that ends the process, as a precondition of the product does, names its seed first.
enum SeedAtTrap {
    private static let seed = Atomic<UInt64>(0)

    static func install() {
        for number in [SIGILL, SIGTRAP, SIGABRT, SIGSEGV] {
            signal(number) { number in
                SeedAtTrap.write()
                signal(number, SIG_DFL)
                raise(number)
            }
        }
    }

    static func begin(_ seed: UInt64) { self.seed.store(seed, ordering: .relaxed) }

    /// Writes without allocating: the process may be in any state.
    private static func write() {
        unsafe withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 48) { buffer in
            var at = 48
            func put(_ byte: UInt8) {
                at -= 1
                unsafe buffer[at] = byte
            }
            put(UInt8(ascii: "\n"))
            var value = seed.load(ordering: .relaxed)
            repeat {
                put(UInt8(ascii: "0") + UInt8(value % 10))
                value /= 10
            } while value > 0
            let text: StaticString = "VIOLATION (a trap): --seed "
            text.withUTF8Buffer { letters in
                for index in letters.indices.reversed() where at > 0 { put(unsafe letters[index]) }
            }
            _ = unsafe Glibc.write(2, buffer.baseAddress! + at, 48 - at)
        }
    }
}
