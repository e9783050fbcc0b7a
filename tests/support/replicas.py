"""Two replicas on one CPU, for the tests of distributed training."""

import functools

import numpy as np

from tests.support.on_backend import BACKEND

if BACKEND == "tensorflow":
    import tensorflow as tf

DEVICES = ["CPU:0", "CPU:1"]


def two_logical_devices():
    """Split the CPU in two. Call this before TensorFlow initializes its devices."""
    if BACKEND != "tensorflow":
        return
    cpu, *_ = tf.config.list_physical_devices("CPU")
    configuration = [tf.config.LogicalDeviceConfiguration() for _ in DEVICES]
    tf.config.set_logical_device_configuration(cpu, configuration)


@functools.cache
def mirrored():
    """Return one strategy for all tests: TensorFlow mixes up the collectives of two strategies."""
    return tf.distribute.MirroredStrategy(DEVICES)


def run_on(strategy, function, *per_replica):
    """Run `function` on every replica with its item of each argument; return all results."""
    arguments = [
        None
        if parts is None
        else strategy.experimental_distribute_values_from_function(
            lambda context, parts=parts: tf.constant(parts[context.replica_id_in_sync_group])
        )
        for parts in per_replica
    ]
    outputs = tf.function(lambda *args: strategy.run(function, args=args))(*arguments)
    return tf.nest.map_structure(
        lambda *values: [value.numpy() for value in values],
        *zip(
            *(strategy.experimental_local_results(x) for x in tf.nest.flatten(outputs)), strict=True
        ),
    )


def forward_and_gradients(layer, x, mask=None, factors=None):
    """Return outputs, and the gradients of Σ factors·outputs for x, gamma and beta."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True, mask=mask)
        loss = tf.reduce_sum(y * factors)
    return y, *tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])


def statistics(layer):
    return [np.array(variable.numpy()) for variable in layer.non_trainable_variables]
