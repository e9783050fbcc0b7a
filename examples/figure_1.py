"""Ioffe & Szegedy (2015), Figure 1: accuracy, and the inputs of one unit, over 50,000 steps.

The script trains the paper's net of 3×100 sigmoid units, plain and normalized, with batches of 60
on Fashion-MNIST. The paper leaves some choices open: here, the optimizer is plain SGD at 0.3, and
weights are from N(0, 0.1²) (`kbn.demo`). Accuracy and percentiles are over the test images in
inference, with statistics of 10,000 training images. Accuracy is also measured with the moving
statistics. The units of the last hidden layer are sorted by how far their median moves after the
first look; the typical unit is the one in the middle.

    python examples/figure_1.py [--quick] [--seeds 0 1 2] [--out FOLDER]
"""

import experiment
import keras
import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

import kbn
from kbn.demo import datasets
from kbn.demo import demonstration as demo

NETS = {"plain": False, "normalized": True}
LEAST = 6000  # smallest number of samples in an epoch


class Looks(keras.callbacks.Callback):
    """Tests a net before training and after every epoch, with population statistics.

    Keeps its accuracy, and three percentiles of the inputs of every unit of `layer`.
    """

    def __init__(self, data: datasets.Parts, layer: str) -> None:
        super().__init__()
        self._data, self._layer = data, layer
        self.steps: list[int] = []
        self.accuracy: list[float] = []
        self.percentiles: list[np.ndarray] = []  # (3, units)

    def on_train_begin(self, logs: object = None) -> None:
        """Test before the first step too."""
        seen = self.model.get_layer(self._layer).input, self.model.outputs[0]
        self._both = keras.Model(self.model.inputs, seen)
        self._look()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Test."""
        self._look()

    def _look(self) -> None:
        x, y = self._data.test
        self.steps.append(int(self.model.optimizer.iterations))
        with experiment.population_statistics(self.model, self._data.train[0]):
            values, logits = self._both.predict_on_batch(x)
        self.percentiles.append(np.percentile(values, [15, 50, 85], axis=0))
        self.accuracy.append(float((logits.argmax(1) == y).mean()))

    def width(self) -> float:
        """Return the width of a unit's inputs before training, as the mean over units."""
        low, _, high = self.percentiles[0]
        return float((high - low).mean()) / 2

    def typical(self) -> np.ndarray:
        """Return the percentiles over steps, (records, 3), of the typical unit."""
        found = np.array(self.percentiles)
        traveled = np.abs(np.diff(found[1:, 1], axis=0)).sum(axis=0)
        order = np.argsort(traveled)
        return found[:, :, order[len(order) // 2]]


def trained(normalized: bool, seed: int, data: datasets.Parts, steps: int, callbacks: list) -> dict:
    """Train one net and return its results."""
    data = datasets.Parts(*((x.reshape(len(x), -1), y) for x, y in data))
    x, y = data.train
    times = max(1, LEAST // len(x))  # repeat the data, so that an epoch has enough steps
    x, y = np.tile(x, (times, 1)), np.tile(y, times)
    keras.utils.set_random_seed(seed)
    model = demo.network(x.shape[1], normalized, seed)
    model.steps_per_execution = 20
    looks = Looks(data, "sigmoid_3")
    fitted = model.fit(
        x, y, batch_size=demo.BATCH_SIZE, epochs=steps * demo.BATCH_SIZE // len(x), verbose=0,
        callbacks=[looks, *callbacks], validation_data=data.test, validation_batch_size=1000,
    )  # fmt: skip
    moving = fitted.history["val_accuracy"]
    return {"steps": looks.steps, "accuracy over steps": looks.accuracy,
            "with moving statistics": moving, "unit": looks.typical().tolist(),
            "first look": looks.accuracy[1], "best look": max(looks.accuracy),
            "at the end": looks.accuracy[-1], "at the end, moving": moving[-1],
            "on training images": fitted.history["accuracy"][-1],
            "width before": looks.width()}  # fmt: skip


def moved(shift: kbn.callbacks.CovariateShift) -> dict[str, float]:
    """Return the shift of the inputs of the last hidden layer, from record to record.

    The first record has a column of its own, because it is relative to the small initial width and
    would dominate a mean.
    """
    _, first, *later = [row.value for row in shift.history if row.measure == "wasserstein"]
    half = len(later) // 2
    parts = {"first": [first], "first half": later[:half], "second half": later[half:]}
    return {f"shift, {name}, σ": float(np.mean(values)) for name, values in parts.items()}


def curves(rows: list[dict], name: str, color: int) -> list[go.Scatter]:
    """Return a net's accuracy over steps; a dotted line if it has moving statistics."""
    own = [row for row in rows if row["net"] == name]
    steps = own[0]["steps"]

    def line(key: str, steps: list[int], label: str, **look: str) -> list[go.Scatter]:
        seeds = zip(*(row[key] for row in own), strict=True)
        points = list(zip(steps, seeds, strict=True))
        return experiment.line(points, label, color, **look)

    drawn = line("accuracy over steps", steps, name)
    if NETS[name]:
        drawn += line("with moving statistics", steps[1:], f"{name}, moving", dash="dot")
    return drawn


def figure(rows: list[dict]) -> go.Figure:
    """Draw the paper's three panels: accuracy of all seeds, the unit of the first seed."""
    titles = ["Test accuracy", *(f"A typical unit's inputs, {name}" for name in NETS)]
    drawn = make_subplots(1, 3, subplot_titles=titles, shared_yaxes=False)
    for color, name in enumerate(NETS):
        drawn.add_traces(curves(rows, name, color), 1, 1)
        first = next(row for row in rows if row["net"] == name)
        unit = np.array(first["unit"])
        for index, (percent, dash) in enumerate(((15, "dot"), (50, "solid"), (85, "dot"))):
            drawn.add_scatter(
                x=first["steps"], y=unit[:, index], name=f"{percent} %", showlegend=False,
                line={"color": experiment.OKABE_ITO[color], "dash": dash}, row=1, col=2 + color,
            )  # fmt: skip
    drawn.update_xaxes(title_text="optimizer step")
    lowest = min(row["first look"] for row in rows)  # without the untrained nets
    drawn.update_yaxes(range=[lowest - 0.05, max(row["best look"] for row in rows) + 0.02], col=1)
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
                callbacks = [shift, bar(f"{name}, seed {seed}")]
                row = trained(normalized, seed, data, steps, callbacks)
                rows.append({"net": name, "seed": seed, **row, **moved(shift)})
    shown = ["first look", "best look", "at the end", "at the end, moving", "on training images",
             "width before",
             *(f"shift, {part}, σ" for part in ("first", "first half", "second half"))]  # fmt: skip
    columns = dict.fromkeys(shown, ".3f")
    experiment.write(given, rows, experiment.table(rows, ["net"], columns), figure(rows))


if __name__ == "__main__":
    main()
