"""A model's evaluation transform: the very bits of it, and its resize as a linear operator."""
