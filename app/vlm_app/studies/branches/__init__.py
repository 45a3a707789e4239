"""Why BranchContrast works where it does: what the text has taken from the image below each layer."""
