import Foundation

exit(tidelineTool.main(Array(CommandLine.arguments.dropFirst())))
