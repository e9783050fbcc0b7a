"""Ioffe & Szegedy (2015), §3.3: does normalization allow higher learning rates?

The script trains a small CNN, plain and normalized, by plain SGD at five learning rates over two
decades. It tests normalized nets with statistics of 10,000 training images, and with the moving
statistics. A high rate makes the moving statistics worse, in addition to its effect on the weights.

    python examples/learning_rates.py [--quick] [--seeds 0 1 2] [--out FOLDER]
"""

import experiment
import keras
import plotly.graph_objects as go

import kbn
from kbn.demo import datasets

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


def accuracies(
    normalized: bool, rate: float, seed: int, data: datasets.Parts, epochs: int, bar: object
) -> dict[str, float]:
    """Train one net and return its accuracy on the test images with both kinds of statistics."""
    keras.utils.set_random_seed(seed)
    model = network(data.train[0].shape[1:], normalized, rate)
    model.fit(*data.train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=[bar])
    moving = model.evaluate(*data.test, batch_size=1000, verbose=0)[1]
    with experiment.population_statistics(model, data.train[0]):
        population = model.evaluate(*data.test, batch_size=1000, verbose=0)[1]
    return {"accuracy": population, "with moving statistics": moving}


def figure(rows: list[dict]) -> go.Figure:
    """Draw accuracy against learning rate; the dotted line is with moving statistics."""
    drawn = go.Figure()
    rates = sorted({row["rate"] for row in rows})

    def line(key: str, name: str, label: str, **look: str) -> list[go.Scatter]:
        own = [row for row in rows if row["net"] == name]
        points = [(rate, [row[key] for row in own if row["rate"] == rate]) for rate in rates]
        return experiment.line(points, label, list(NETS).index(name), **look)

    for name in NETS:
        drawn.add_traces(line("accuracy", name, name))
    moving = line("with moving statistics", "normalized", "normalized, moving", dash="dot")
    drawn.add_traces(moving)
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
                    found = accuracies(normalized, rate, seed, data, epochs, label)
                    rows.append({"net": name, "rate": rate, "seed": seed, **found})
    columns = dict.fromkeys(("accuracy", "with moving statistics"), ".3f")
    shown = experiment.table(rows, ["rate", "net"], columns)
    experiment.write(given, rows, shown, figure(rows))


if __name__ == "__main__":
    main()
