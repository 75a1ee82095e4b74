"""Two files compared: what readers are given of them, and what a down-and-up test says of each."""
