"""What methods are built of: options, choices of heads and layers, what a row attends to."""
