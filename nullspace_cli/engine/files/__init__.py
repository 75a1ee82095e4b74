"""What lies on disk: paths, reading, pictures and their formats, the model hub's cache."""
