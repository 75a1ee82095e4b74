"""The JSON documents that commands print and write, one command a file: what scripts rely on."""
