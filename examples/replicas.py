"""A small batch per replica, with and without synchronized statistics, on two devices.

Two logical CPUs train one net under MirroredStrategy with four samples each. There are three kinds
of batches. Shuffled: both replicas see all classes. Sorted: each reads its own half of the classes,
like replicas that read shards. Pedestal: shuffled, with 3,000 standard deviations added to every
pixel, like sensors with a dark level. The saved model is tested on one device.

    python examples/replicas.py [--quick] [--seeds 0 1 2] [--out FOLDER]
"""

import itertools

import experiment
import keras
import numpy as np
import plotly.graph_objects as go
import tensorflow as tf

import kbn
from kbn.demo import datasets

LAYERS = {"keras": keras.layers.BatchNormalization, "kbn": kbn.BatchNormalization}
SYNCHRONIZED = (False, True)
BATCHES = ("shuffled", "sorted", "pedestal")
PER_REPLICA, REPLICAS, UNITS, RATE = 4, 2, 100, 0.03
SAMPLES = 12_000  # not all of Fashion-MNIST, because two devices on two cores are slow
DARK = 3000  # standard deviations of a pixel


def strategy() -> tf.distribute.MirroredStrategy:
    """Split the CPU in two, before TensorFlow uses it, and mirror over both."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * REPLICAS
    tf.config.set_logical_device_configuration(cpu, logical)
    return tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(REPLICAS)])


def network(features: int, normalization: type, synchronized: bool) -> keras.Model:
    """Build a net that normalizes its inputs and two hidden layers."""
    options = {"momentum": 0.9, "synchronized": synchronized}
    model = keras.Sequential([keras.layers.Input((features,)), normalization(**options)])
    for _ in range(2):
        model.add(keras.layers.Dense(UNITS, use_bias=False))
        model.add(normalization(**options))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE), loss, metrics=["accuracy"])
    return model


def arranged(data: datasets.Parts, kind: str, seed: int) -> datasets.Parts:
    """Return the samples in the order in which the batches take them."""
    (x, y), (x_test, y_test) = ((x.reshape(len(x), -1), y) for x, y in data)
    order = np.random.default_rng(seed).permutation(len(x))[:SAMPLES]
    if kind == "sorted":
        # The first half of every batch goes to one replica, the second to the other.
        halves = [order[y[order] // 5 == half] for half in (0, 1)]
        count = min(map(len, halves)) // PER_REPLICA
        parts = [half[: count * PER_REPLICA].reshape(count, PER_REPLICA) for half in halves]
        order = np.concatenate(parts, axis=1).ravel()
    whole = PER_REPLICA * REPLICAS
    order = order[: len(order) // whole * whole]
    pedestal = np.float32(DARK * x.std() if kind == "pedestal" else 0)
    return datasets.Parts((x[order] + pedestal, y[order]), (x_test + pedestal, y_test))


def kept(
    devices: tf.distribute.Strategy, data: datasets.Parts, options: dict, bar: object
) -> dict[str, float]:
    """Train on both devices; return the results of the saved weights on one device.

    "mean off" and "variance" compare the first layer's moving statistics with those of all training
    images; they are medians over the pixels that vary.
    """
    with devices.scope():
        model = network(data.train[0].shape[1], **options)
    model.fit(*data.train, batch_size=PER_REPLICA * REPLICAS, shuffle=False, verbose=0,
              callbacks=[bar])  # fmt: skip
    alone = network(data.train[0].shape[1], **options)
    alone.set_weights(model.get_weights())
    x, first = data.train[0].astype("float64"), alone.layers[0]
    varies = x.std(0) > x.std() / 10
    mean, variance = x.mean(0)[varies], x.var(0)[varies]
    off = np.abs(first.moving_mean.numpy()[varies] - mean) / np.sqrt(variance)
    return {
        "mean off, σ": float(np.median(off)),
        "variance": float(np.median(first.moving_variance.numpy()[varies] / variance)),
        "accuracy": alone.evaluate(*data.test, batch_size=1000, verbose=0)[1],
    }


def figure(rows: list[dict]) -> go.Figure:
    """Draw accuracy as bars."""
    drawn, kinds = go.Figure(), list(dict.fromkeys(row["batches"] for row in rows))
    settings = dict.fromkeys((row["layer"], row["statistics"]) for row in rows)
    for color, (layer, statistics) in enumerate(settings):
        own = [row for row in rows if (row["layer"], row["statistics"]) == (layer, statistics)]
        by_kind = [[row["accuracy"] for row in own if row["batches"] == kind] for kind in kinds]
        means, lows, highs = ([pick(of) for of in by_kind] for pick in (np.mean, min, max))
        error = {"type": "data", "symmetric": False, "array": np.subtract(highs, means),
                 "arrayminus": np.subtract(means, lows)}  # fmt: skip
        drawn.add_bar(
            x=kinds, y=means, name=f"{layer}, {statistics} statistics", error_y=error,
            marker_color=experiment.OKABE_ITO[color],
        )  # fmt: skip
    drawn.update_yaxes(title_text="test accuracy of the saved model", range=[0, 1])
    return drawn.update_layout(height=440)


def main() -> None:
    """Train with both layers, synchronized and not, on every kind of batches, for every seed."""
    given = experiment.options(__file__, __doc__)
    data, rows, devices = given.data(), [], strategy()
    kinds = BATCHES[1:] if given.quick else BATCHES
    settings = list(itertools.product(given.seeds, kinds, LAYERS, SYNCHRONIZED))
    with experiment.progress(len(settings)) as bar:
        for seed, kind, layer, synchronized in settings:
            keras.utils.set_random_seed(seed)
            options = {"normalization": LAYERS[layer], "synchronized": synchronized}
            setting = {"batches": kind, "layer": layer,
                       "statistics": "shared" if synchronized else "own"}  # fmt: skip
            label = bar(f"{', '.join(setting.values())}, seed {seed}")
            found = kept(devices, arranged(data, kind, seed), options, label)
            rows.append({**setting, "seed": seed, **found})
    columns = {"mean off, σ": ".2f", "variance": ".2f", "accuracy": ".3f"}
    shown = experiment.table(rows, ["batches", "layer", "statistics"], columns)
    experiment.write(given, rows, shown, figure(rows))


if __name__ == "__main__":
    main()
