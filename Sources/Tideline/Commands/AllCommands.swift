/// Every command of the tool, in the order in which help shows them.
let allCommands: [Command] = [
    UpCommand.command,
    CoreCommand.command,
    RelayCommand.command,
    EdgeCommand.command,
    SealerCommand.command,
    GenerateCommand.command,
    ReplayCommand.command,
    VerifyCommand.command,
    SimulateCommand.command,
    LagCommand.command,
    LogCommand.export,
    LogCommand.take,
    DeadLettersCommand.list,
    DeadLettersCommand.show,
    DeadLettersCommand.replay,
    FeaturesCommand.check,
    FeaturesCommand.list,
    FeaturesCommand.export,
    FeaturesCommand.rows,
    KeysCommand.command,
    SnapshotsCommand.list,
    SnapshotsCommand.pin,
    SnapshotsCommand.unpin,
    SnapshotsCommand.rollback,
    SnapshotsCommand.verify,
    TopicsCommand.plan,
    TopicsCommand.check,
    TopicsCommand.create,
    ModelCommand.checkCommand,
    ModelCommand.scoreCommand,
]

let tidelineTool = CommandLineTool(
    name: "tideline", version: "0.1.0",
    summary:
        "Tideline scores every event of a live stream exactly once, and answers questions about it in every region.",
    commands: allCommands)
