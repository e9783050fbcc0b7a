"""Replicas and workers of `tf.distribute`."""

import contextlib

import keras
import tensorflow as tf

from kbn.common.types import Tensor


def several_replicas() -> bool:
    """Return whether the current code runs on one of several replicas of a strategy."""
    return _context() is not None


def gather(rows: Tensor) -> Tensor:
    """Return `rows`, (k, C), of all R replicas as (R, k, C), the same on every replica.

    This is one collective: an all-reduce of (R, k, C), where each replica fills in its own rows and
    leaves the others 0. Its gradient is an all-reduce too. It works under every strategy.
    """
    context = tf.distribute.get_replica_context()
    replicas = tf.range(context.num_replicas_in_sync)
    own = tf.equal(replicas, tf.cast(context.replica_id_in_sync_group, replicas.dtype))
    # Do not multiply by 0 and 1: one replica's NaN would reach the rows of the others.
    placed = tf.where(own[:, None, None], rows[None], tf.zeros_like(rows)[None])
    return context.all_reduce(tf.distribute.ReduceOp.SUM, placed)


def is_chief(model: keras.Model) -> bool:
    """Return whether this process writes for all workers that train `model`."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy is None or bool(strategy.extended.should_save_summary)


def undisturbed() -> contextlib.AbstractContextManager[object]:
    """Return a context in which code runs once for the whole batch, even in a strategy's scope.

    Code inside runs as outside any scope: Keras divides losses by one replica, and if a variable
    differs between replicas, the first replica's value is read. Do not create variables inside.
    """
    # A strategy's scope belongs to the graph, so a new graph has TensorFlow's default: one replica.
    with tf.Graph().as_default():
        return tf.distribute.get_replica_context()


def _context() -> tf.distribute.ReplicaContext | None:
    """Return the replica context if there is more than one replica, else None."""
    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None
