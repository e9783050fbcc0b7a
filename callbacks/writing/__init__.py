"""Writers: TensorBoard event files, JSON lines and pictures."""
