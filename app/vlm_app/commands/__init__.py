"""The subcommands, one file each. Torch and matplotlib are imported inside them, so that `--help` is quick."""
