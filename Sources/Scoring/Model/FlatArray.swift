/// Collects the values of an array, flat as long as they are all numbers.
struct FlatArray {
    private(set) var value = ModelValue.integers([])
    private var count = 0

    init() {}

    mutating func append(_ element: ModelValue) {
        count += 1
        switch (element, kind) {
        case (.integer(let number), .integers): appendInteger(number)
        case (.float(let number), .integers):
            // The first fraction among whole numbers turns them into floats, each rounded once.
            if case .integers(let numbers) = value { value = .floats(numbers.map { Float($0) } + [number]) }
        case (.integer(let number), .floats): appendFloat(Float(number))
        case (.float(let number), .floats): appendFloat(number)
        default: appendMixed(element)
        }
    }

    private enum Kind { case integers, floats, mixed }

    private var kind: Kind {
        switch value {
        case .integers: .integers
        case .floats: .floats
        default: .mixed
        }
    }

    // The value is taken out before it is changed: an array with two owners would be copied at each step.
    private mutating func appendInteger(_ number: Int64) {
        guard case .integers(var numbers) = value else { return }
        value = .null
        numbers.append(number)
        value = .integers(numbers)
    }

    private mutating func appendFloat(_ number: Float) {
        guard case .floats(var numbers) = value else { return }
        value = .null
        numbers.append(number)
        value = .floats(numbers)
    }

    private mutating func appendMixed(_ element: ModelValue) {
        var values: [ModelValue]
        switch value {
        case .integers(let numbers): values = numbers.map { .integer($0) }
        case .floats(let numbers): values = numbers.map { .float($0) }
        case .array(let present): values = present
        default: values = []
        }
        value = .null
        values.append(element)
        value = .array(values)
    }
}
