"""Other programs: lmms-eval, and checkpoints for serving engines."""
