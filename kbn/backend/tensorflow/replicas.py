"""Replicas and workers of `tf.distribute`."""

import contextlib
from typing import Any

import keras
import tensorflow as tf

from kbn.common.types import Tensor


def several_replicas() -> bool:
    """Return whether the code that runs now is one of several replicas of a strategy."""
    return _context() is not None


def gather(rows: Tensor) -> Tensor:
    """Return every replica's `rows`, (k, C), as (R, k, C): the same on all of them.

    One collective, an all-reduce of rows that are zero but for the replica's own. Its gradient is
    such a sum too, and it works under every strategy.
    """
    context = _context()
    replicas = tf.range(context.num_replicas_in_sync)
    own = tf.equal(replicas, tf.cast(context.replica_id_in_sync_group, replicas.dtype))
    # Not a product with 0 and 1: one replica's NaN would reach the rows of the others.
    placed = tf.where(own[:, None, None], rows[None], tf.zeros_like(rows)[None])
    return context.all_reduce(tf.distribute.ReduceOp.SUM, placed)


def is_chief(model: keras.Model) -> bool:
    """Return whether this process writes for all workers that train `model`."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy is None or bool(strategy.extended.should_save_summary)


def undisturbed() -> contextlib.AbstractContextManager[Any]:
    """Return a context whose code runs once for the whole batch, in a strategy's scope or not.

    As outside of any scope: Keras divides losses there by one replica, and of variables that
    differ between replicas the first one's are read. New variables must not be made inside.
    """
    # A strategy's scope lies on the graph, so a new one has TensorFlow's default: one replica.
    with tf.Graph().as_default():
        return tf.distribute.get_replica_context()


def _context() -> Any:
    """Return the replica context if there is more than one replica, else None."""
    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None
