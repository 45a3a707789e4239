"""Comparisons as plain data, and as tables and plots."""
