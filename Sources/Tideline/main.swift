import Foundation

let code = tidelineTool.main(Array(CommandLine.arguments.dropFirst()))
// Every store was closed by its owner: nothing of a library is torn down under a thread that still ends.
fflush(nil)
_exit(code)
