"""Pure functions on `keras.ops` or NumPy: moments, masks, moving averages, renormalization."""
