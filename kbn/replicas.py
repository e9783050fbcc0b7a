"""The replica merge: the one place where the layer meets TensorFlow's distribution."""

from typing import Any

import keras

Tensor = Any


def several() -> bool:
    """Say whether the code that runs now is one of several replicas of a strategy."""
    return _context() is not None


def gather(rows: Tensor) -> Tensor:
    """Return every replica's `rows`, (k, C), as (R, k, C): the same on all of them.

    One collective, an all-reduce of rows that are zero but for the replica's own, because its
    gradient is another one and it works under every strategy.
    """
    import tensorflow as tf

    context = _context()
    replicas = tf.range(context.num_replicas_in_sync)
    own = tf.equal(replicas, tf.cast(context.replica_id_in_sync_group, replicas.dtype))
    # Not a product with 0 and 1: one replica's NaN would reach the rows of the others.
    placed = tf.where(own[:, None, None], rows[None], tf.zeros_like(rows)[None])
    return context.all_reduce(tf.distribute.ReduceOp.SUM, placed)


def is_chief(model: keras.Model) -> bool:
    """Say whether this process writes for all: of several workers one does."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy is None or bool(strategy.extended.should_save_summary)


def in_sync() -> int:
    """Return the number of replicas of the strategy whose scope the code runs in."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def _context() -> Any:
    """Return the replica context where there is more than one replica, else None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None
