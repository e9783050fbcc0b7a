"""Looking into any model: its layers, their calls, and the batches that `fit` takes."""
