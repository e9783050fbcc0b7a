"""The layer: options, variables, forward pass, saved state and execution path."""
