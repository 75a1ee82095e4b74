"""What every document that is read or written looks like, and the only ways to read one."""
