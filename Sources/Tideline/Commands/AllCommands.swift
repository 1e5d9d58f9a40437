/// Every command of the tool, in the order in which help shows them.
let allCommands: [Command] = [
    UpCommand.command,
    CoreCommand.command,
    RelayCommand.command,
    EdgeCommand.command,
    GenerateCommand.command,
    VerifyCommand.command,
    LagCommand.command,
    FeaturesCommand.check,
    FeaturesCommand.export,
    ModelCommand.checkCommand,
    ModelCommand.scoreCommand,
]
