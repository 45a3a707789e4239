"""The subcommands, one file each. What runs is imported inside them, so that `--help` is quick."""
