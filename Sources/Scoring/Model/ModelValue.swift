/// A value of a model file, JSON or UBJ alike.
///
/// Arrays of numbers are kept flat: a model of millions of nodes is a dozen arrays a tree.
enum ModelValue: Sendable {
    case null
    case bool(Bool)
    case integer(Int64)
    case float(Float)
    case string(String)
    case integers([Int64])
    case floats([Float])
    case array([ModelValue])
    case object([(key: String, value: ModelValue)])

    /// The member of that name; of repeated names the last, as XGBoost reads them.
    subscript(key: String) -> ModelValue? {
        guard case .object(let members) = self else { return nil }
        return members.last { $0.key == key }?.value
    }

    /// What a reader may call this value in an error.
    var kind: String {
        switch self {
        case .null: "null"
        case .bool: "a truth value"
        case .integer, .float: "a number"
        case .string: "a string"
        case .integers, .floats, .array: "an array"
        case .object: "an object"
        }
    }

    var isEmpty: Bool {
        switch self {
        case .null: true
        case .string(let text): text.isEmpty
        case .integers(let values): values.isEmpty
        case .floats(let values): values.isEmpty
        case .array(let values): values.isEmpty
        case .object(let members): members.isEmpty
        case .bool, .integer, .float: false
        }
    }
}

/// A place inside a model file, to read typed members from and to name in errors.
struct ModelNode {
    let value: ModelValue
    let path: String

    func optional(_ key: String) -> ModelNode? {
        value[key].map { ModelNode(value: $0, path: path.isEmpty ? key : "\(path).\(key)") }
    }

    func member(_ key: String) throws(ModelError) -> ModelNode {
        guard let found = optional(key) else {
            throw ModelError(.malformed, "\(path.isEmpty ? "the file" : path) has no `\(key)`")
        }
        return found
    }

    func wrong(_ wanted: String) -> ModelError { ModelError(.malformed, "\(path) is \(value.kind), not \(wanted)") }

    func string() throws(ModelError) -> String {
        guard case .string(let text) = value else { throw wrong("a string") }
        return text
    }

    /// A whole number, given as a number or as a string of digits.
    func integer() throws(ModelError) -> Int {
        switch value {
        case .integer(let number): return Int(number)
        case .float(let number):
            if let whole = Int(exactly: number) { return whole }
        case .string(let text):
            if let whole = Int(text) { return whole }
        default: break
        }
        throw wrong("a whole number")
    }

    func elements() throws(ModelError) -> [ModelNode] {
        switch value {
        case .array(let values):
            return values.enumerated().map { ModelNode(value: $1, path: "\(path)[\($0)]") }
        case .integers(let values):
            return values.enumerated().map { ModelNode(value: .integer($1), path: "\(path)[\($0)]") }
        case .floats(let values):
            return values.enumerated().map { ModelNode(value: .float($1), path: "\(path)[\($0)]") }
        default: throw wrong("an array")
        }
    }

    func strings() throws(ModelError) -> [String] {
        var texts: [String] = []
        for element in try elements() { texts.append(try element.string()) }
        return texts
    }

    func floats() throws(ModelError) -> [Float] {
        switch value {
        case .floats(let values): return values
        case .integers(let values): return values.map { Float($0) }
        case .array(let values) where values.isEmpty: return []
        default: throw wrong("an array of numbers")
        }
    }

    /// Whole numbers that fit 32 bits; truth values count as 0 and 1.
    func integers() throws(ModelError) -> [Int32] {
        var numbers: [Int32] = []
        switch value {
        case .integers(let values):
            numbers.reserveCapacity(values.count)
            for number in values {
                guard let fitting = Int32(exactly: number) else {
                    // The mark of a deleted node is an unsigned -1.
                    guard number == Int64(UInt32.max) else { throw wrong("an array of 32-bit integers") }
                    numbers.append(-1)
                    continue
                }
                numbers.append(fitting)
            }
        case .floats(let values):
            for number in values {
                guard let fitting = Int32(exactly: number) else { throw wrong("an array of whole numbers") }
                numbers.append(fitting)
            }
        case .array(let values):
            for element in values {
                guard case .bool(let truth) = element else { throw wrong("an array of whole numbers") }
                numbers.append(truth ? 1 : 0)
            }
        default: throw wrong("an array of whole numbers")
        }
        return numbers
    }
}
