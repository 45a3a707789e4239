"""Steering: changes of the hidden state between layers, and of what MLPs add to it, one file each."""
