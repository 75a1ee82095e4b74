"""Labelled images: where they are found, and how they reach the model."""
