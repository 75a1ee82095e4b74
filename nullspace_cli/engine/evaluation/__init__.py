"""How stable a model's predictions are under noise."""
