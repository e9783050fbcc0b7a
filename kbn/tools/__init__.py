"""Tools that change a trained model."""
