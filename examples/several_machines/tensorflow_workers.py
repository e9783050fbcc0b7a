"""TensorFlow: `fit` in two processes under MultiWorkerMirroredStrategy, callbacks on the chief.

    python examples/several_machines/tensorflow_workers.py [--epochs 3] [--log-dir runs/tensorflow]
    tensorboard --logdir runs/tensorflow

The script starts both processes on this machine. On several machines, start it once on each, with
its own TF_CONFIG.

Keras 3 does not support this strategy in `fit`: two places in its trainer fail with any model
(https://github.com/keras-team/keras/issues/20585). This way around uses public names only:

1. The model that `fit` trains is made outside the strategy's scope. The network inside it,
   `compile` and `fit` belong inside the scope.
2. `train_step` and `test_step` give each metric an axis, because Keras reduces over axis 0.
"""

import argparse
import json
import os
from typing import Any


def train(epochs: int, log_dir: str) -> None:
    """Train as one of the processes. TF_CONFIG in the environment says which."""
    import tensorflow as tf

    # Before anything else uses TensorFlow's devices.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import keras

    import kbn
    from kbn.demo import datasets

    class PerWorker(keras.Model):
        """Trains `net`, any model, with metrics that have an axis to reduce."""

        def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
            return self.net(x, training=training)

        def train_step(self, data: Any) -> dict[str, tf.Tensor]:
            return {name: value[None] for name, value in super().train_step(data).items()}

        def test_step(self, data: Any) -> dict[str, tf.Tensor]:
            return {name: value[None] for name, value in super().test_step(data).items()}

    keras.utils.set_random_seed(0)
    data, validation, probe = datasets.load("digits", seed=0)
    batches = tf.data.Dataset.from_tensor_slices(data).batch(64, drop_remainder=True)
    held_out = tf.data.Dataset.from_tensor_slices(validation).batch(64, drop_remainder=True)

    callbacks = [
        kbn.callbacks.CovariateShift(log_dir, probe, every_steps=10),
        kbn.callbacks.MovingStatistics(log_dir, probe, every_steps=10),
    ]
    model = PerWorker()
    with strategy.scope():
        inputs = keras.Input((64,))
        x = keras.layers.Dense(64, use_bias=False)(inputs)
        x = keras.layers.ReLU()(kbn.BatchNormalization(momentum=0.9, name="bn")(x))
        model.net = keras.Model(inputs, keras.layers.Dense(10)(x), name="net")
        model.compile(
            keras.optimizers.Adam(1e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        history = model.fit(
            batches, validation_data=held_out, epochs=epochs, shuffle=False, verbose=0,
            callbacks=callbacks,
        )  # fmt: skip
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    steps = [len({row.step for row in callback.history}) for callback in callbacks]
    mean = float(model.net.get_layer("bn").moving_mean.numpy().mean())
    print(
        f"process {index}: validation accuracy {history.history['val_accuracy'][-1]:.3f}, "
        f"average of the moving mean {mean:.6f}, records {steps}"
    )


def main() -> None:
    """Start both processes, and wait for them."""
    import processes

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--log-dir", default="runs/tensorflow")
    options = parser.parse_args()
    if "TF_CONFIG" in os.environ:
        train(options.epochs, options.log_dir)
        return

    def environment(index: int, ports: list[int]) -> dict[str, str]:
        cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
        task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        return {"TF_CONFIG": json.dumps(task)}

    processes.start(environment)


if __name__ == "__main__":
    main()
