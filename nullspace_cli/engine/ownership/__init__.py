"""Whose model is this: a nullspace that was committed to, and how a suspect is held against it."""
