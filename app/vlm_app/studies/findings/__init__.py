"""What is true of a model on the embedded world: where it looks, which heads do, and what its answers tell of that."""
