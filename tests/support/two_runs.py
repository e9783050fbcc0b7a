"""Train two small nets with all callbacks."""

import keras
import numpy as np

import kbn
from kbn.callbacks import CovariateShift, GradientShift, LossLandscape, MovingStatistics

RUNS = ("plain", "normalized")
STEPS, EVERY = 24, 4


def network(normalized):
    layers = [keras.Input((6,))]
    for number in (1, 2):
        layers.append(keras.layers.Dense(8, name=f"dense_{number}"))
        if normalized:
            layers.append(kbn.BatchNormalization(momentum=0.5, name=f"norm_{number}"))
        layers.append(keras.layers.Activation("sigmoid", name=f"sigmoid_{number}"))
    model = keras.Sequential([*layers, keras.layers.Dense(1, name="out")])
    model.compile("sgd", "mse")
    return model


def train(folder):
    """Train both below `folder` and return each run's callbacks."""
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (STEPS * 16, 6)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    callbacks = {}
    for run in RUNS:
        keras.utils.set_random_seed(0)
        log_dir, often = folder / run, {"every_steps": EVERY}
        callbacks[run] = [
            CovariateShift(log_dir, x, layers="sigmoid_*", **often),
            GradientShift(log_dir, (x, y), **often),
            LossLandscape(log_dir, (x, y), **often),
        ]
        if run == "normalized":
            callbacks[run].append(MovingStatistics(log_dir, x, **often))
        network(run == "normalized").fit(x, y, batch_size=16, verbose=0, callbacks=callbacks[run])
    return callbacks
