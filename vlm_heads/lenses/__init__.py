"""Lenses: rules over the token logits of a generation and of its middle layers, one file each."""
