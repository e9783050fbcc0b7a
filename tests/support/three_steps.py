"""Three steps of training from fixed weights and data, whose result is the same on each backend."""

from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

import kbn
from tests.support.on_backend import array

FILES = Path(__file__).parent.parent / "golden" / "backends"
BACKENDS = ("tensorflow", "jax", "torch")
OPTIONS = {
    "default": {},
    "average_by_count": {"momentum": None, "unbiased_variance": False},
    "zero_debias": {"zero_debias": True, "momentum": 0.9},
    "virtual_batches": {"virtual_batch_size": 6, "center": False},
    "renorm_schedule": {
        "renorm": True,
        "renorm_clipping": {"rmax": keras.optimizers.schedules.PolynomialDecay(1.0, 5, 3.0)},
    },
    "portable": {"fused": False},
}
RNG = np.random.default_rng(0)
X = RNG.normal(1, 2, (48, 6, 6, 2)).astype("float32")
Y = RNG.normal(size=(48, 2)).astype("float32")


class Result(NamedTuple):
    """What three steps leave behind.

    Attributes:
        losses: the loss of each step, measured before it.
        weights: the weights after the last step, in the order of `get_weights`.
        predicted: predictions for `X` after the last step.
    """

    losses: np.ndarray
    weights: list[np.ndarray]
    predicted: np.ndarray


def network(options):
    """Return a compiled model with weights that are the same on each backend."""
    model = keras.Sequential([
        layers.Input((6, 6, 2)), kbn.BatchNormalization(name="first", **options),
        layers.Conv2D(3, 3, activation="relu"), kbn.BatchNormalization(name="second", **options),
        layers.Flatten(), layers.Dense(2),
    ])  # fmt: skip
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if not isinstance(layer, kbn.BatchNormalization):
            layer.set_weights([rng.normal(0, 0.3, w.shape) for w in layer.get_weights()])
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


class Losses(keras.callbacks.Callback):
    """Keeps the loss of each step."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        # Keras reports the mean over the steps so far.
        total = float(logs["loss"]) * (batch + 1)
        self.seen.append(total - sum(self.seen))


def trained(options):
    """Return the model after three steps, and their result."""
    model, losses = network(options), Losses()
    model.fit(X, Y, batch_size=16, shuffle=False, verbose=0, callbacks=[losses])
    return model, Result(np.array(losses.seen), [array(w) for w in model.weights], predicted(model))


def predicted(model):
    return model.predict(X, verbose=0)


def written(backend, name):
    """Return the result that `backend` wrote."""
    with np.load(FILES / f"{backend}.npz") as file:
        weights = [file[key] for key in sorted(file) if key.startswith(f"{name}/weight")]
        return Result(file[f"{name}/losses"], weights, file[f"{name}/predicted"])
