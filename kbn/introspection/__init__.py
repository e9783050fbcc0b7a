"""Inspect any model: its layers, their calls, and the batches of its data."""
