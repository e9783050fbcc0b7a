"""Benchmarks of kbn's layer (next to Keras's and torch's), callbacks and tab: `make bench`."""

import os

# Before a library is imported: threads that spin after their work would slow down the next action.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
