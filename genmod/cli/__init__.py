"""The command `genmod`: parser, subcommands and exit codes."""
