"""Saliency: which parts of an image a network's answer rests on, one family of methods a file."""
