"""The embedded world and the model that was trained on it; see README's "The embedded world"."""
