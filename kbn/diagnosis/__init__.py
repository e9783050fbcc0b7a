"""What records say about a training run."""
