"""Images that look like one thing to people and are another to the network."""
