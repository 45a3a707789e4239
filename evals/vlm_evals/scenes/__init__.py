"""The embedded world and the model that was trained on it; see `mini/MODEL_CARD.md`."""
