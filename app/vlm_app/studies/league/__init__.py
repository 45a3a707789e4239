"""Every method on the same scenes, at equal recall."""
