"""Checks: what reads the model's words before they are said; one file a method."""
