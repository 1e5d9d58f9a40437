import Foundation

let tidelineTool = CommandLineTool(
    name: "tideline", version: "0.1.0",
    summary:
        "Tideline scores every event of a live stream exactly once, and answers questions about it in every region.",
    commands: allCommands)

exit(tidelineTool.main(Array(CommandLine.arguments.dropFirst())))
