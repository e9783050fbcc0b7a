"""Train one net on raw, centered, standardized, and PCA- or ZCA-whitened inputs.

All runs use the same ReLU net with the same learning rate. The net gets each kind of input as it
is, and through kbn.BatchNormalization as the first layer.

    python examples/preprocessing.py [--quick] [--seeds 0 1 2] [--out FOLDER]
"""

import experiment
import keras
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from sklearn.decomposition import PCA

import kbn

FIRST_LAYERS = {"as it is": False, "normalized first": True}
KEPT = 0.95  # share of the variance that whitening keeps; the rest is noise, not to be amplified
RATE, BATCH_SIZE, UNITS = 0.02, 64, 100
POINTS = 40  # number of points in a curve of the loss over steps

Arrays = tuple[np.ndarray, np.ndarray]


def preprocessed(train: np.ndarray, test: np.ndarray) -> dict[str, Arrays]:
    """Return train and test inputs by name; statistics are those of the training images."""
    pixels = [255 * part.reshape(len(part), -1) for part in (train, test)]
    mean, std = pixels[0].mean(0), pixels[0].std(0)
    whiten = PCA(KEPT, whiten=True, svd_solver="full").fit(pixels[0])
    centered = [part - mean for part in pixels]
    pca = [whiten.transform(part) for part in pixels]
    kinds = {
        "raw, 0 to 255": pixels,
        "mean subtracted": centered,
        "z-scored": [part / np.where(std > 0, std, 1) for part in centered],
        "PCA-whitened": pca,
        "ZCA-whitened": [part @ whiten.components_ for part in pca],  # back in the pixels' axes
    }
    return {name: tuple(part.astype("float32") for part in parts) for name, parts in kinds.items()}


class Losses(keras.callbacks.Callback):
    """Keeps the mean loss of each period of steps."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self._every = every
        self.steps: list[int] = []
        self.values: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        """Keep Keras's running mean, and reset it."""
        if (batch + 1) % self._every == 0:
            self.steps.append(int(self.model.optimizer.iterations))
            self.values.append(logs["loss"])
            self.model.reset_metrics()


def network(features: int, normalized_first: bool) -> keras.Model:
    """Build two hidden ReLU layers, with or without normalization first."""
    model = keras.Sequential([keras.layers.Input((features,))])
    if normalized_first:
        model.add(kbn.BatchNormalization(momentum=0.9, name="first"))
    for _ in range(2):
        model.add(keras.layers.Dense(UNITS, activation="relu"))
    model.add(keras.layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss, metrics=["accuracy"])
    return model


def figure(rows: list[dict]) -> go.Figure:
    """Draw loss over steps, a line per kind of input."""
    drawn = make_subplots(1, 2, subplot_titles=list(FIRST_LAYERS), shared_yaxes=True)
    for column, first in enumerate(FIRST_LAYERS, start=1):
        for color, kind in enumerate(dict.fromkeys(row["inputs"] for row in rows)):
            own = [row for row in rows if (row["inputs"], row["first layer"]) == (kind, first)]
            losses = zip(*(row["losses"] for row in own), strict=True)
            points = list(zip(own[0]["steps"], losses, strict=True))
            lines = experiment.line(points, kind, color)
            lines[1].showlegend = column == 2
            drawn.add_traces(lines, 1, column)
    drawn.update_xaxes(title_text="optimizer step")
    drawn.update_yaxes(type="log", range=[-0.7, 1.3])
    drawn.update_yaxes(title_text="training loss", col=1)
    return drawn.update_layout(height=460)


def trained(inputs: Arrays, data: object, first: bool, seed: int, epochs: int, bar: object) -> dict:
    """Train one net and return its results."""
    keras.utils.set_random_seed(seed)
    model = network(inputs[0].shape[1], first)
    every = max(1, len(inputs[0]) // BATCH_SIZE * epochs // POINTS)
    losses = Losses(every)
    (_, y), (_, y_test) = data
    model.fit(
        inputs[0], y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=[losses, bar]
    )
    accuracy = model.evaluate(inputs[1], y_test, batch_size=1000, verbose=0)[1]
    return {"loss at the end": losses.values[-1], "test accuracy": accuracy,
            "losses": losses.values, "steps": losses.steps}  # fmt: skip


def main() -> None:
    """Train a net on every kind of input, with and without normalization first, for every seed."""
    given = experiment.options(__file__, __doc__)
    data, epochs = given.data(), 8 if given.quick else 2
    kinds = preprocessed(data.train[0], data.test[0])
    rows = []
    with experiment.progress(len(kinds) * len(FIRST_LAYERS) * len(given.seeds)) as bar:
        for seed in given.seeds:
            for kind, inputs in kinds.items():
                for first, normalized in FIRST_LAYERS.items():
                    label = bar(f"{kind}, {first}, seed {seed}")
                    row = trained(inputs, data, normalized, seed, epochs, label)
                    rows.append({"inputs": kind, "first layer": first, "seed": seed, **row})
    columns = {"loss at the end": ".3f", "test accuracy": ".3f"}
    shown = experiment.table(rows, ["inputs", "first layer"], columns)
    experiment.write(given, rows, shown, figure(rows))


if __name__ == "__main__":
    main()
