"""The command line: parse, call one engine function, render. No mathematics here."""
