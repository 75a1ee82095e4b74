"""Visible marks that the network cannot see, at the size of its input and at the image's own."""
