"""Fine-tuning with frozen normalization, with and without one bad batch in pre-training.

A net learns the first five classes. Then its body is frozen and a new head learns the other five.
Frozen normalization uses only the moving statistics from pre-training, even if they are wrong. In
half of the runs, one image in the middle of pre-training is broken (infinite). As in mixed
precision, the optimizer skips steps whose gradients are not finite, so the weights stay intact.

    python examples/fine_tuning.py [--quick] [--seeds 0 1 2] [--out FOLDER]
"""

import itertools
import math

import experiment
import keras
import numpy as np
import plotly.graph_objects as go

import kbn
from kbn.demo import datasets

LAYERS = {"keras": keras.layers.BatchNormalization, "kbn": kbn.BatchNormalization}
PRE_TRAINING = ("clean", "one bad batch")
CLASSES, HIDDEN, UNITS = 5, 3, 100
BATCH_SIZE = 32


def body(features: int, normalization: type) -> keras.Model:
    """Build dense layers, each normalized before its ReLU."""
    model = keras.Sequential([keras.layers.Input((features,))])
    for _ in range(HIDDEN):
        model.add(keras.layers.Dense(UNITS, use_bias=False))
        model.add(normalization(momentum=0.9))
        model.add(keras.layers.ReLU())
    return model


def with_head(base: keras.Model) -> keras.Model:
    """Put a classifier after `base`, and compile both."""
    model = keras.Sequential([base, keras.layers.Dense(CLASSES)])
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), initial_scale=2.0**10),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"],
    )  # fmt: skip
    return model


def halves(data: datasets.Parts) -> list[datasets.Parts]:
    """Return the samples of classes 0 to 4, and those of 5 to 9 with labels from 0."""
    flat = [(x.reshape(len(x), -1), y) for x, y in data]
    return [
        datasets.Parts(*((x[y // CLASSES == half], y[y // CLASSES == half] % CLASSES)
                         for x, y in flat))
        for half in (0, 1)
    ]  # fmt: skip


def accuracy(model: keras.Model, test: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the share of test samples that are classified correctly, in inference mode.

    It is NaN if the net returns NaN.
    """
    logits = np.asarray(model(test[0], training=False))
    return float((logits.argmax(1) == test[1]).mean()) if np.isfinite(logits).all() else math.nan


def transferred(
    normalization: type, bad: bool, seed: int, data: datasets.Parts, quick: bool, bars: list
) -> dict[str, float]:
    """Pre-train, freeze, fine-tune; return the accuracies on the test images."""
    keras.utils.set_random_seed(seed)
    old, new = halves(data)
    # Quick runs see both halves eight times, but the bad batch only once.
    (x, y), new_train = (
        [np.concatenate([part] * (8 if quick else 1)) for part in half.train] for half in (old, new)
    )
    if bad:
        x[len(x) // 2, 0] = np.inf
    base = body(x.shape[1], normalization)
    first = with_head(base)
    first.fit(x, y, batch_size=BATCH_SIZE, shuffle=False, verbose=0, callbacks=bars[:1])
    before = accuracy(first, old.test)
    base.trainable = False
    second = with_head(base)
    second.fit(*new_train, batch_size=BATCH_SIZE, verbose=0, callbacks=bars[1:])
    return {"old classes": before, "new classes": accuracy(second, new.test)}


def figure(rows: list[dict]) -> go.Figure:
    """Draw accuracy on the new classes as bars."""
    drawn = go.Figure()
    for color, layer in enumerate(LAYERS):
        own = [[row["new classes"] for row in rows if (row["layer"], row["pre-training"]) ==
                (layer, before)] for before in PRE_TRAINING]  # fmt: skip
        lows, means, highs = (np.array([pick(of) for of in own]) for pick in (min, np.mean, max))
        drawn.add_bar(
            x=PRE_TRAINING, y=np.nan_to_num(means), name=layer, textangle=0,
            text=[f"{one:.3f}" if math.isfinite(one) else f"{layer}: NaN" for one in means],
            textposition=["inside" if math.isfinite(one) else "outside" for one in means],
            insidetextanchor="middle",
            marker_color=experiment.OKABE_ITO[color],
            error_y={"type": "data", "symmetric": False, "array": highs - means,
                     "arrayminus": means - lows},
        )  # fmt: skip
    drawn.update_yaxes(title_text="accuracy on the new classes", range=[0, 1])
    drawn.update_xaxes(title_text="pre-training")
    return drawn.update_layout(height=420)


def main() -> None:
    """Pre-train and fine-tune with both layers, with and without a bad batch, for every seed."""
    given = experiment.options(__file__, __doc__)
    data, rows = given.data(), []
    with experiment.progress(2 * len(LAYERS) * len(PRE_TRAINING) * len(given.seeds)) as bar:
        for seed, (name, layer), before in itertools.product(
            given.seeds, LAYERS.items(), PRE_TRAINING
        ):
            bars = [bar(f"{name}, {before}, seed {seed}") for _ in range(2)]
            found = transferred(layer, before != "clean", seed, data, given.quick, bars)
            rows.append({"layer": name, "pre-training": before, "seed": seed, **found})
    columns = dict.fromkeys(("old classes", "new classes"), ".3f")
    shown = experiment.table(rows, ["layer", "pre-training"], columns)
    experiment.write(given, rows, shown, figure(rows))


if __name__ == "__main__":
    main()
