"""The training state that the callbacks read."""

import keras


def iterations(optimizer: keras.optimizers.Optimizer) -> int:
    """Return how many steps `optimizer` has taken."""
    steps = optimizer.iterations  # a tensor if gradients are accumulated
    return int(steps.value if isinstance(steps, keras.Variable) else steps)
