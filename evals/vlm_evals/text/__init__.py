"""From a caption to the objects it names."""
