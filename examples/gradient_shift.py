"""Santurkar et al. (2018): does normalization reduce internal covariate shift, by their measure?

The script trains a VGG-like net with batches of 128 and SGD at 0.1: plain, normalized, and
normalized with noise after every normalization. The noise shifts distributions on purpose (their
Appendix A.2): at each step, each channel gets a mean from U(−0.5, 0.5) and a scale from U(1, 1.25).
Each sample adds U(−0.1, 0.1) to the mean and N(0, 0.1²) to the scale. The script records gradient
shift, the landscape of the loss, and how far distributions move. Quick runs use two of the three
blocks. After three blocks, 8×8 digits are only one pixel large, and the plain net does not learn.

    python examples/gradient_shift.py [--quick] [--seeds 0 1 2] [--out FOLDER]
"""

from typing import Any, NamedTuple

import experiment
import keras
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

import kbn
from kbn.demo import datasets

NETS = ("plain", "normalized", "noisy")
BLOCKS = (16, 32, 64)
RATE, BATCH_SIZE = 0.1, 128
MEAN, SCALE, JITTER = 0.5, 1.25, 0.1  # the paper's values for the noise
RECORDS = 10
MEASURES = {
    "gradient shift": "gradient_shift", "gradient shift, relative": "gradient_shift_relative",
    "gradient cosine": "gradient_cosine",
    "β-smoothness": "beta_smoothness", "highest loss": "loss_highest",
    "predictiveness": "predictiveness_highest", "distribution shift, σ": "wasserstein",
}  # fmt: skip
DRAWN = [name for name in MEASURES if name != "gradient shift"]  # draw only the relative one


class Size(NamedTuple):
    """How many blocks a net has, and for how many steps it is trained."""

    blocks: int
    steps: int


class ShiftingNoise(keras.layers.Layer):
    """x·s + m. For each sample, s and m scatter around the channel's values from `redraw`.

    These values are weights, so that they are part of the net's state at a step.
    """

    def build(self, shape: tuple[int, ...]) -> None:
        """Make the weights; the seed of the jitter follows the run's seed."""
        self.mean = self.add_weight(shape=shape[-1:], trainable=False, initializer="zeros")
        self.scale = self.add_weight(shape=shape[-1:], trainable=False, initializer="ones")
        self.seed = keras.random.SeedGenerator()

    def redraw(self, rng: np.random.Generator) -> None:
        """Draw a new mean and scale for every channel."""
        self.mean.assign(rng.uniform(-MEAN, MEAN, self.mean.shape))
        self.scale.assign(rng.uniform(1, SCALE, self.scale.shape))

    def call(self, x: Any, training: bool = False) -> Any:
        """Shift and scale, in training only."""
        if not training:
            return x
        size = (keras.ops.shape(x)[0], *(1 for _ in x.shape[1:-1]), x.shape[-1])
        around = keras.random.uniform(size, -JITTER, JITTER, seed=self.seed)
        wide = keras.random.normal(size, 0, JITTER, seed=self.seed)
        return x * (self.scale + wide) + self.mean + around


class Redraw(keras.callbacks.Callback):
    """Draws new noise before every step."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._rng = np.random.default_rng(seed)

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        """Draw."""
        for layer in self.model.layers:
            if isinstance(layer, ShiftingNoise):
                layer.redraw(self._rng)


def network(shape: tuple[int, ...], kind: str, blocks: int) -> keras.Model:
    """Build pairs of convolutions with pooling between, then a classifier."""
    model = keras.Sequential([keras.layers.Input(shape)])
    for block, filters in enumerate(BLOCKS[:blocks], start=1):
        for index in (1, 2):
            bias = kind == "plain"
            name = f"conv_{block}_{index}"
            model.add(keras.layers.Conv2D(filters, 3, padding="same", use_bias=bias, name=name))
            if kind != "plain":
                model.add(kbn.BatchNormalization(momentum=0.9))
            if kind == "noisy":
                model.add(ShiftingNoise())
            model.add(keras.layers.ReLU(name=f"relu_{block}_{index}"))
        model.add(keras.layers.MaxPooling2D())
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(10, name="logits"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss, metrics=["accuracy"])
    return model


def trained(
    kind: str, seed: int, data: datasets.Parts, size: Size, log_dir: Any, bar: Any
) -> dict[str, Any]:
    """Train one net with all callbacks, and return the means of their records."""
    keras.utils.set_random_seed(seed)
    (x, y), (blocks, steps) = data.train, size
    model = network(x.shape[1:], kind, blocks)
    probe, every = tuple(part[:128] for part in data.test), steps // RECORDS
    layers = ["conv_2_1", f"conv_{blocks}_2"]
    shift = kbn.callbacks.GradientShift(log_dir, probe, layers=layers, every_steps=every)
    landscape = kbn.callbacks.LossLandscape(log_dir, probe, every_steps=every)
    moved = kbn.callbacks.CovariateShift(
        log_dir, probe, layers=keras.layers.ReLU, sites=["input"], every_steps=every,
    )  # fmt: skip
    times = -(-steps * BATCH_SIZE // len(x))
    order = np.concatenate([np.random.default_rng(seed).permutation(len(x)) for _ in range(times)])
    chosen = order[: steps * BATCH_SIZE]
    callbacks = [shift, landscape, moved, Redraw(seed), bar]
    fitted = model.fit(
        x[chosen], y[chosen], batch_size=BATCH_SIZE, shuffle=False, verbose=0, callbacks=callbacks
    )
    rows = [
        row for callback in (shift, landscape, moved) for row in callback.history if row.step > 1
    ]
    found = {
        name: float(np.mean([row.value for row in rows if row.measure == measure]))
        for name, measure in MEASURES.items()
    }
    # Inference has no noise, but the moving statistics include it.
    with experiment.population_statistics(model, x):
        accuracy = model.evaluate(*data.test, batch_size=1000, verbose=0)[1]
    return {"mean training loss": fitted.history["loss"][0], "test accuracy": accuracy, **found,
            "over steps": over_steps(rows)}  # fmt: skip


def over_steps(rows: list) -> dict[str, list[list[float]]]:
    """Return (step, mean over layers) of every measure."""
    found = {}
    for measure in MEASURES.values():
        own = [row for row in rows if row.measure == measure]
        found[measure] = [
            [step, float(np.mean([row.value for row in own if row.step == step]))]
            for step in sorted({row.step for row in own})
        ]
    return found


def figure(rows: list[dict]) -> go.Figure:
    """Draw the measures over steps, a line per net."""
    drawn = make_subplots(2, 3, subplot_titles=DRAWN, vertical_spacing=0.16)
    for place, measure in enumerate(MEASURES[name] for name in DRAWN):
        at = {"row": 1 + place // 3, "col": 1 + place % 3}
        for color, kind in enumerate(NETS):
            own = [row["over steps"][measure] for row in rows if row["net"] == kind]
            points = [(one[0][0], [step[1] for step in one]) for one in zip(*own, strict=True)]
            lines = experiment.line(points, kind, color)
            lines[1].showlegend = place == 0
            drawn.add_traces(lines, at["row"], at["col"])
        drawn.update_yaxes(type="linear" if "cosine" in measure else "log", **at)
    drawn.update_xaxes(title_text="optimizer step", row=2)
    return drawn.update_layout(height=640)


def main() -> None:
    """Train every net for every seed."""
    given = experiment.options(__file__, __doc__)
    data, size = given.data(), Size(2, 120) if given.quick else Size(len(BLOCKS), 400)
    rows = []
    with experiment.progress(len(NETS) * len(given.seeds)) as bar:
        for seed in given.seeds:
            for kind in NETS:
                log_dir = experiment.log_dir(given, f"{kind}-{seed}")
                row = trained(kind, seed, data, size, log_dir, bar(f"{kind}, seed {seed}"))
                rows.append({"net": kind, "seed": seed, **row})
    columns = {
        "mean training loss": ".3f",
        "test accuracy": ".3f",
        **dict.fromkeys(MEASURES, ".3f"),
    }
    experiment.write(given, rows, experiment.table(rows, ["net"], columns), figure(rows))


if __name__ == "__main__":
    main()
