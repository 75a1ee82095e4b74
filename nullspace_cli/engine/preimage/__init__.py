"""Pictures whose resize, with all its rounding, is a given input of the model."""
