"""Sketches of activations, and distances between them."""
