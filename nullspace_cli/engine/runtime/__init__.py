"""How PyTorch is run: precision, gradients, memory, processes, and the settings that all threads share."""
