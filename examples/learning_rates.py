"""Ioffe & Szegedy (2015), §3.3: does normalization allow higher learning rates?

A small CNN, plain and normalized, trained by plain SGD at five learning rates over two decades.

    python examples/learning_rates.py [--quick] [--seeds 0 1 2] [--out FOLDER]
"""

import experiment
import keras
import plotly.graph_objects as go

import kbn
from kbn import datasets

NETS = {"plain": False, "normalized": True}
RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
FILTERS = (16, 32, 64)
BATCH_SIZE = 64


def network(shape: tuple[int, ...], normalized: bool, rate: float) -> keras.Model:
    """Build three convolutions, each followed by normalization or not, and a classifier."""
    model = keras.Sequential([keras.layers.Input(shape)])
    for filters in FILTERS:
        model.add(keras.layers.Conv2D(filters, 3, 2, padding="same", use_bias=not normalized))
        if normalized:
            model.add(kbn.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss, metrics=["accuracy"], steps_per_execution=10)
    return model


def accuracy(
    normalized: bool, rate: float, seed: int, data: datasets.Parts, epochs: int, bar: object
) -> float:
    """Train one net and return its accuracy on the test images."""
    keras.utils.set_random_seed(seed)
    model = network(data.train[0].shape[1:], normalized, rate)
    model.fit(*data.train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=[bar])
    return model.evaluate(*data.test, batch_size=1000, verbose=0)[1]


def figure(rows: list[dict]) -> go.Figure:
    """Draw accuracy against learning rate."""
    drawn = go.Figure()
    rates = sorted({row["rate"] for row in rows})
    for colour, name in enumerate(NETS):
        points = [
            (rate, [row["accuracy"] for row in rows if (row["net"], row["rate"]) == (name, rate)])
            for rate in rates
        ]
        drawn.add_traces(experiment.line(points, name, colour))
    drawn.update_xaxes(type="log", title_text="learning rate", tickvals=rates)
    drawn.update_yaxes(title_text="test accuracy", range=[0, 1])
    return drawn.update_layout(height=420)


def main() -> None:
    """Train every net at every rate for every seed."""
    given = experiment.options(__file__, __doc__)
    data, epochs, rates = given.data(), *((8, RATES[::4]) if given.quick else (2, RATES))
    rows = []
    with experiment.progress(len(NETS) * len(rates) * len(given.seeds)) as bar:
        for seed in given.seeds:
            for name, normalized in NETS.items():
                for rate in rates:
                    label = bar(f"{name}, rate {rate}, seed {seed}")
                    found = accuracy(normalized, rate, seed, data, epochs, label)
                    rows.append({"net": name, "rate": rate, "seed": seed, "accuracy": found})
    shown = experiment.table(rows, ["rate", "net"], {"accuracy": ".3f"})
    experiment.write(given, rows, shown, figure(rows))


if __name__ == "__main__":
    main()
