"""The command `genmod`: its parser, its subcommands, its exit codes."""
