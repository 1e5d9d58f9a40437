/// Which values of a field make a row's label 1, such as `>0` or `=fraud`.
struct LabelRule: Equatable {
    enum Relation: String, CaseIterable {
        case atLeast = ">="
        case atMost = "<="
        case above = ">"
        case below = "<"
        case equal = "="
    }

    let relation: Relation
    let text: String
    private let number: Double?

    init(_ rule: String) throws {
        guard let relation = Relation.allCases.first(where: { rule.hasPrefix($0.rawValue) }) else {
            throw UsageError("--label-positive is a relation and a value, such as >0 or =fraud, not `\(rule)`")
        }
        self.relation = relation
        text = String(rule.dropFirst(relation.rawValue.count))
        number = Double(text)
        guard number != nil || relation == .equal else {
            throw UsageError("--label-positive `\(rule)`: only = goes with a text")
        }
    }

    func holds(for value: Double) -> Bool {
        guard let number else { return false }
        switch relation {
        case .atLeast: return value >= number
        case .atMost: return value <= number
        case .above: return value > number
        case .below: return value < number
        case .equal: return value == number
        }
    }

    func holds(for value: String) -> Bool {
        relation == .equal && value == text || Double(value).map { holds(for: $0) } == true
    }
}
