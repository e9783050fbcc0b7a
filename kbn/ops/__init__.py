"""Pure mathematics on `keras.ops` or NumPy: moments, masks, moving averages, renormalization."""
