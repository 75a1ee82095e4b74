"""Results of commands as people read them: one file a command; values.py: what several of them say in one way."""
