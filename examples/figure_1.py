"""Ioffe & Szegedy (2015), Figure 1: accuracy, and what one unit gets, over 50,000 steps.

The paper's net of 3×100 sigmoid units, batches of 60, plain and normalized, on Fashion-MNIST. Left
open by the paper, and chosen here: plain SGD at 0.3, weights from N(0, 0.1²) (`kbn.demo`);
percentiles over the test images in inference mode; the typical unit of the last hidden layer is the
one whose median travels as far as the median unit's, once the first thousand steps are over.

    python examples/figure_1.py [--quick] [--seeds 0 1 2] [--out FOLDER]
"""

import experiment
import keras
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

import kbn
from kbn import datasets, demo, tags

NETS = {"plain": False, "normalized": True}
LEAST = 6000  # samples of an epoch
EARLY = 0.02  # of all steps, where speed shows


class UnitPercentiles(keras.callbacks.Callback):
    """Keeps the 15th, 50th and 85th percentile of every unit's input, at every epoch's end."""

    def __init__(self, x: np.ndarray, layer: str) -> None:
        super().__init__()
        self._x, self._layer = x, layer
        self.steps: list[int] = []
        self.percentiles: list[np.ndarray] = []  # (3, units)

    def on_train_begin(self, logs: object = None) -> None:
        """Look before the first step too."""
        self._inputs = keras.Model(self.model.inputs, self.model.get_layer(self._layer).input)
        self._look()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Look at the units."""
        self._look()

    def _look(self) -> None:
        self.steps.append(int(self.model.optimizer.iterations))
        values = self._inputs.predict_on_batch(self._x)
        self.percentiles.append(np.percentile(values, [15, 50, 85], axis=0))

    def typical(self) -> np.ndarray:
        """Return the percentiles over steps, (records, 3), of the unit that travels as most do."""
        found = np.array(self.percentiles)
        travelled = np.abs(np.diff(found[1:, 1], axis=0)).sum(axis=0)
        order = np.argsort(travelled)
        return found[:, :, order[len(order) // 2]]


def trained(normalized: bool, seed: int, data: datasets.Parts, steps: int, hooks: list) -> dict:
    """Train one net and return what is shown of it."""
    (x, y), (x_test, y_test) = ((x.reshape(len(x), -1), y) for x, y in data)
    times = max(1, LEAST // len(x))  # so that an epoch of few samples is worth a look
    x, y = np.tile(x, (times, 1)), np.tile(y, times)
    keras.utils.set_random_seed(seed)
    model = demo.network(x.shape[1], normalized, seed)
    model.steps_per_execution = 20
    units = UnitPercentiles(x_test, "sigmoid_3")
    epochs = steps * demo.BATCH_SIZE // len(x)
    fitted = model.fit(
        x, y, batch_size=demo.BATCH_SIZE, epochs=epochs, verbose=0, callbacks=[units, *hooks],
        validation_data=(x_test, y_test), validation_batch_size=1000,
    )  # fmt: skip
    accuracy = fitted.history["val_accuracy"]
    return {"steps": units.steps, "accuracy over steps": accuracy, "unit": units.typical().tolist(),
            "test accuracy at 2 %": accuracy[max(1, round(epochs * EARLY)) - 1],
            "best of all looks": max(accuracy), "at the end": accuracy[-1],
            "training accuracy at the end": fitted.history["accuracy"][-1]}  # fmt: skip


def moved(shift: kbn.callbacks.CovariateShift) -> dict[str, float]:
    """Return the shift of what the last hidden layer gets, from record to record.

    The first is from the initial weights, per the small width that they gave it; it would hide
    all others in a mean.
    """
    _, first, *later = [row.value for row in shift.history if row.measure == tags.WASSERSTEIN]
    half = len(later) // 2
    parts = {"first": [first], "first half": later[:half], "second half": later[half:]}
    return {f"shift, {name}, σ": float(np.mean(values)) for name, values in parts.items()}


def figure(rows: list[dict]) -> go.Figure:
    """Draw the paper's three panels: accuracy of all seeds, the unit of the first one."""
    titles = ["Test accuracy", *(f"A typical unit's inputs, {name}" for name in NETS)]
    drawn = make_subplots(1, 3, subplot_titles=titles, shared_yaxes=False)
    for colour, name in enumerate(NETS):
        own = [row for row in rows if row["net"] == name]
        points = zip(
            own[0]["steps"][1:],
            zip(*(row["accuracy over steps"] for row in own), strict=True),
            strict=True,
        )
        drawn.add_traces(experiment.line(list(points), name, colour), 1, 1)
        unit = np.array(own[0]["unit"])
        for index, (percent, dash) in enumerate(((15, "dot"), (50, "solid"), (85, "dot"))):
            drawn.add_scatter(
                x=own[0]["steps"], y=unit[:, index], name=f"{percent} %", showlegend=False,
                line={"color": experiment.OKABE_ITO[colour], "dash": dash}, row=1, col=2 + colour,
            )  # fmt: skip
    drawn.update_xaxes(title_text="optimizer step")
    drawn.update_yaxes(title_text="15th, 50th, 85th percentile", col=2)
    drawn.update_yaxes(matches="y2", col=3)
    return drawn.update_layout(height=420, legend={"orientation": "h", "y": -0.2})


def main() -> None:
    """Train both nets for every seed."""
    given = experiment.options(__file__, __doc__)
    data, steps = given.data(), 1500 if given.quick else 50_000
    probe = data.test[0][:256].reshape(256, -1)
    rows = []
    with experiment.progress(len(NETS) * len(given.seeds)) as bar:
        for seed in given.seeds:
            for name, normalized in NETS.items():
                shift = kbn.callbacks.CovariateShift(
                    experiment.log_dir(given, f"{name}-{seed}"), probe, layers="sigmoid_3",
                    sites=["input"], every_steps=steps // 50,
                )  # fmt: skip
                hooks = [shift, bar(f"{name}, seed {seed}")]
                row = trained(normalized, seed, data, steps, hooks)
                rows.append({"net": name, "seed": seed, **row, **moved(shift)})
    shown = ["test accuracy at 2 %", "best of all looks", "at the end",
             "training accuracy at the end",
             *(f"shift, {part}, σ" for part in ("first", "first half", "second half"))]  # fmt: skip
    columns = dict.fromkeys(shown, ".3f")
    experiment.write(given, rows, experiment.table(rows, ["net"], columns), figure(rows))


if __name__ == "__main__":
    main()
