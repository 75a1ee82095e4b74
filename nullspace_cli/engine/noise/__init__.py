"""Noise that a network does not notice: where it is added, how it is learned, and its file."""
