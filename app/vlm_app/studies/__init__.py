"""Programs that find something out."""
