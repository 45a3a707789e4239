"""What every head of a model does: switched off, doubled, and written out on the words, one by one."""
