"""The training state that the callbacks read."""

import keras

from kbn.backend.jax.arrays import numpy_of


def iterations(optimizer: keras.optimizers.Optimizer) -> int:
    """Return how many steps `optimizer` has taken."""
    return int(numpy_of(optimizer.iterations))
