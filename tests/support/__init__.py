"""What test files share: tiny models, comparisons, and oracles that use nothing of the library."""
