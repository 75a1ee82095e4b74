"""The embedded demo: two small models, the images they were trained on, and the scripts that made both."""
