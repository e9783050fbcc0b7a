"""Unbiased statistics at test time, with batches of 2, 4, 8 and 32 and several estimates.

Ioffe & Szegedy (2015), Algorithm 2, use the unbiased estimate of the variance for inference,
m/(m−1) times the batches' mean variance. In training, a net normalizes with σ_B² of m samples.
Which variance should inference use instead? Training does not depend on it, so every net is trained
once and keeps all kinds of moving statistics, each updated by every batch.

    python examples/unbiased_statistics.py [--quick] [--seeds 0 1 2] [--out FOLDER]
"""

from typing import Any

import experiment
import keras
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

import kbn
from kbn.demo import datasets

BATCH_SIZES = (2, 4, 8, 32)
HIDDEN, UNITS = 3, 100
RATE_PER_SAMPLE = 0.1 / 64
STATISTICS: dict[str, dict[str, Any]] = {
    f"momentum {momentum}, {'unbiased' if unbiased else 'biased'}":
        {"momentum": momentum, "unbiased_variance": unbiased}
    for momentum in (0.99, 0.9, None) for unbiased in (False, True)
}  # fmt: skip
RECALIBRATED = "recalibrated"


class ManyStatistics(keras.layers.Layer):
    """Batch normalization that keeps moving statistics by several rules at once.

    In training it normalizes as usual.
    """

    def build(self, shape: tuple[int, ...]) -> None:
        """Make one layer per rule, and one that has γ and β and normalizes."""
        self.own = kbn.BatchNormalization()
        self.rules = {name: kbn.BatchNormalization(center=False, scale=False, **rule)
                      for name, rule in STATISTICS.items()}  # fmt: skip
        for layer in (self.own, *self.rules.values()):
            layer.build(shape)

    def call(self, x: Any, training: bool = False) -> Any:
        """Normalize, and update the statistics of every rule."""
        for layer in self.rules.values():
            layer(x, training=training)
        return self.own(x, training=training)

    def weights_by(self, rule: str) -> list[np.ndarray]:
        """Return γ, β and the moving statistics by this rule, as weights of a single layer."""
        of = self.rules[rule]
        chosen = self.own.gamma, self.own.beta, of.moving_mean, of.moving_variance
        return [variable.numpy() for variable in chosen]


def network(features: int, batch_size: int, normalization: type) -> keras.Model:
    """Build dense layers, each normalized before its ReLU."""
    model = keras.Sequential([keras.layers.Input((features,))])
    for _ in range(HIDDEN):
        model.add(keras.layers.Dense(UNITS, use_bias=False))
        model.add(normalization())
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = RATE_PER_SAMPLE * batch_size
    model.compile(keras.optimizers.SGD(rate), loss, metrics=["accuracy"], steps_per_execution=20)
    return model


def scores(trained: keras.Model, data: datasets.Parts) -> dict[str, dict[str, float]]:
    """Return the scores on the test images by every rule, and by `recalibrate`.

    "variance" is the moving variance of the first hidden layer, divided by that of its inputs over
    10,000 images, both summed over units.
    """
    model = network(data.train[0].shape[1], 1, kbn.BatchNormalization)
    first = model.layers[1]

    def score() -> dict[str, Any]:
        found = model.evaluate(*data.test, batch_size=1000, verbose=0, return_dict=True)
        return found | {"variance": first.moving_variance.numpy()}

    by_rule = {}
    for rule in STATISTICS:
        for source, target in zip(trained.layers, model.layers, strict=True):
            many = isinstance(source, ManyStatistics)
            target.set_weights(source.weights_by(rule) if many else source.get_weights())
        by_rule[rule] = score()
    kbn.recalibrate(model, data.train[0][:10_000], batch_size=1000, verbose=False)
    by_rule[RECALIBRATED] = score()
    for found in by_rule.values():
        found["variance"] = float(found["variance"].sum() / first.moving_variance.numpy().sum())
    return by_rule


def figure(rows: list[dict]) -> go.Figure:
    """Draw accuracy and loss against batch size, a line per rule."""
    drawn = make_subplots(1, 2, subplot_titles=("Test accuracy", "Test loss"))
    for index, name in enumerate([*STATISTICS, RECALIBRATED]):
        own = [row for row in rows if row["statistics"] == name]
        color, dash = (index // 2, "dot" if "biased" in name.split() else "solid")
        for column, key in enumerate(("accuracy", "loss"), start=1):
            points = [(size, [row[key] for row in own if row["batch"] == size])
                      for size in BATCH_SIZES]  # fmt: skip
            lines = experiment.line(points, name, color, dash=dash)
            lines[1].showlegend = column == 1
            drawn.add_traces(lines, 1, column)
    drawn.update_xaxes(type="log", title_text="samples per training batch", tickvals=BATCH_SIZES)
    drawn.update_yaxes(type="log", col=2)
    return drawn.update_layout(height=460)


def main() -> None:
    """Train a net per batch size and seed, and evaluate it by every rule."""
    given = experiment.options(__file__, __doc__)
    data = datasets.Parts(*((x.reshape(len(x), -1), y) for x, y in given.data()))
    rows = []
    with experiment.progress(len(BATCH_SIZES) * len(given.seeds)) as bar:
        for seed in given.seeds:
            for size in BATCH_SIZES:
                keras.utils.set_random_seed(seed)
                model = network(data.train[0].shape[1], size, ManyStatistics)
                model.fit(*data.train, batch_size=size, epochs=1, verbose=0,
                          callbacks=[bar(f"batches of {size}, seed {seed}")])  # fmt: skip
                rows += [{"batch": size, "statistics": name, "seed": seed, **score}
                         for name, score in scores(model, data).items()]  # fmt: skip
    columns = {"variance": ".3f", "accuracy": ".3f", "loss": ".3f"}
    shown = experiment.table(rows, ["batch", "statistics"], columns)
    experiment.write(given, rows, shown, figure(rows))


if __name__ == "__main__":
    main()
