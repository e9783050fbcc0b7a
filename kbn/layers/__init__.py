"""The layer: its options, its variables, the call, the saved state, and which path a call takes."""
