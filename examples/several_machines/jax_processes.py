"""JAX: `fit` in two processes under keras.distribution.DataParallel, with callbacks on the chief.

    python examples/several_machines/jax_processes.py [--epochs 3] [--log-dir runs/jax]
    tensorboard --logdir runs/jax

The script starts both processes on this machine. On several machines, start it once on each, with
the environment variables that `main` sets. A batch of `fit` is a part of the global batch: each
process reads its own samples. The layer normalizes with the statistics of the global batch.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "jax"


def train(epochs: int, log_dir: str) -> None:
    """Train as one of the processes. The environment variables say which."""
    import keras

    keras.distribution.initialize()  # before anything else uses JAX
    import jax
    import numpy as np

    import kbn
    from kbn.demo import datasets

    # Each process passes its own samples, so Keras must not divide them once more. Models are built
    # after this call.
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    index, count = jax.process_index(), jax.process_count()

    class Part(keras.utils.PyDataset):
        """Every `count`-th sample of each global batch."""

        def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
            super().__init__()
            self.x, self.y = x, y

        def __len__(self) -> int:
            return len(self.x) // BATCH

        def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
            part = slice(batch * BATCH + index, (batch + 1) * BATCH, count)
            return self.x[part], self.y[part]

    keras.utils.set_random_seed(0)
    data, validation, probe = datasets.load("digits", seed=0)
    model = keras.Sequential([
        keras.layers.Input((64,)), keras.layers.Dense(64, use_bias=False),
        kbn.BatchNormalization(momentum=0.9, name="bn"), keras.layers.ReLU(),
        keras.layers.Dense(10),
    ])  # fmt: skip
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    callbacks = [
        kbn.callbacks.CovariateShift(log_dir, probe, every_steps=10),
        kbn.callbacks.MovingStatistics(log_dir, probe, every_steps=10),
    ]
    history = model.fit(
        Part(*data), validation_data=Part(*validation), epochs=epochs, shuffle=False, verbose=0,
        callbacks=callbacks,
    )  # fmt: skip
    kbn.recalibrate(model, data[0], verbose=False)  # the same data in every process
    mean = float(np.asarray(model.get_layer("bn").moving_mean.value).mean())
    # In every process: Keras creates variables when it saves, which all processes do together.
    model.save(os.path.join(log_dir, f"model-{index}.keras"))
    steps = [len({row.step for row in callback.history}) for callback in callbacks]
    print(
        f"process {index}: validation accuracy {history.history['val_accuracy'][-1]:.3f}, "
        f"average of the moving mean {mean:.6f}, records {steps}"
    )


BATCH = 64  # of all processes together


def main() -> None:
    """Start both processes, and wait for them."""
    import processes

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--log-dir", default="runs/jax")
    options = parser.parse_args()
    if "KERAS_DISTRIBUTION_PROCESS_ID" in os.environ:
        train(options.epochs, options.log_dir)
        return
    processes.start(
        lambda index, ports: {
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": ",".join(f"127.0.0.1:{port}" for port in ports),
            "KERAS_DISTRIBUTION_NUM_PROCESSES": str(len(ports)),
            "KERAS_DISTRIBUTION_PROCESS_ID": str(index),
        }
    )


if __name__ == "__main__":
    main()
