"""Benchmarks of kbn's layer (next to Keras's and torch's), callbacks and tab: `make bench`."""
