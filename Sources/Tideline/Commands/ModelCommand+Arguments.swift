extension ModelCommand {
    static let checkCommand = Command(
        name: "model check", summary: "Say what a model file is, and whether it runs here.", arguments: ["MODEL"],
        options: [CommandOption("--json", help: "Print JSON.")], examples: ["tideline model check models/cards.json"],
        run: { check(path: $0.positional[0], json: $0.flag("--json")) })

    static let scoreCommand = Command(
        name: "model score", summary: "Score rows of a CSV file with a model.",
        discussion: "The file has a header line; an empty cell is a missing value. One line of outputs a row.",
        arguments: ["MODEL", "ROWS.csv"], examples: ["tideline model score models/cards.json rows.csv"],
        run: { score(model: $0.positional[0], rows: $0.positional[1]) })
}
