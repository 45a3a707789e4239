"""What runs while an attach lasts."""
