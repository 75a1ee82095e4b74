"""The engine: importable as a library. It never imports the command line and never prints."""
