"""timm's models: how they are built and given weights, what they answer, and how they read an image."""
