"""Learning about heads, and writing what was learnt into a checkpoint."""
