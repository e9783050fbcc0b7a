"""Benchmarks of kbn's layer (beside Keras's and torch's), callbacks and tab: `make bench`."""
