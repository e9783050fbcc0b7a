"""The catalogue of measures and runs, with one row each.

Tags, descriptions, units, colors, the order in the dashboard and the lazy exports of
`kbn.callbacks` come from here. To add a callback, add its run and its measures to `RUNS`. The row
of a distance is next to its function, in `kbn.distributions.distances`.

This module imports neither NumPy nor Keras, so that `import kbn.callbacks` is fast.
"""

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from kbn.distributions.distances import Distance

HISTOGRAM = "activations"
HEAT_MAP = "heat_map"
WORST_LAYERS = "worst_layers"
MONITOR = "monitor"
COST, LAYERS, SETTINGS = f"{MONITOR}/cost", f"{MONITOR}/layers", f"{MONITOR}/settings"
PERCENTILES = {"percentile_15": 15, "percentile_50": 50, "percentile_85": 85}
"""Percentages by measure, ascending."""

LINEAR: Literal["linear"] = "linear"


class Measure(NamedTuple):
    """One measure. Its name is the first segment of its tags.

    Attributes:
        name: name in tags and in `history`.
        meaning: description, in one or two sentences.
        unit: unit of the values; empty if they have none.
        scale: scale of the colors that show the values.
        symbol: symbol of the unit, for use after a number.
        still: the value that means no movement.
        whose: whether it belongs to a layer or to the whole model.
        kind: how TensorBoard stores it.
        is_distance: whether it compares a record with the reference record. The first record is
            compared with itself.
        offered: whether the tab offers it as a measure to choose.
    """

    name: str
    meaning: str
    unit: str = ""
    scale: Literal["linear", "logarithmic"] = "logarithmic"
    symbol: str = ""
    still: float = 0.0
    whose: Literal["layer", "model"] = "layer"
    kind: Literal["scalar", "histogram", "picture", "text"] = "scalar"
    is_distance: bool = False
    offered: bool = True


class Run(NamedTuple):
    """A run: what one callback writes.

    Attributes:
        name: name of the run below `log_dir`, and of the callback's module in `kbn.callbacks`.
        callback: name of the callback's class.
        measures: function that returns its measures, in the order of the dashboard.
    """

    name: str
    callback: str
    measures: Callable[[], Iterable[Measure]]


def _worst(row: Measure) -> Measure:
    """Return the row of the same measure for the worst channel."""
    channel = f"of the channel farthest from {row.still:g}"
    meaning = row.meaning.replace("mean over channels", channel)
    return row._replace(name=f"{row.name}_worst", meaning=meaning)


_ACTIVATION, _GRADIENT, _SHARE = "unit of the activation", "unit of the gradient", "share, 0 to 1"

_SHAPE = (
    Measure(HISTOGRAM, "Distribution of the layer's activations on the fixed probe batch. Bucket "
            "edges are quantiles, so the Distributions tab shows exact percentiles.", _ACTIVATION,
            kind="histogram"),
    *(Measure(name, f"{percent}th percentile of the activations (Ioffe & Szegedy 2015, Fig. 1).",
              _ACTIVATION, LINEAR) for name, percent in PERCENTILES.items()),
    Measure("mean", "Mean of all finite activations.", _ACTIVATION, LINEAR),
    Measure("std", "Standard deviation of all finite activations.", _ACTIVATION),
)  # fmt: skip
_HEALTH = (
    Measure("kurtosis", "Kurtosis (a normal distribution has 3) per channel, then the mean over "
            "channels."),
    Measure("non_finite", "Share of inf and NaN values.", _SHARE, LINEAR),
    Measure("zeros", "Share of values that are exactly zero.", _SHARE, LINEAR),
    Measure("dead", "Share of channels that are zero on the whole probe batch.", _SHARE, LINEAR),
    Measure("saturated", "Share of values within 1 % of the bounds of the layer's activation "
            "function; only if it has bounds.", _SHARE, LINEAR),
    Measure(HEAT_MAP, "The layers that moved most, over records. Brighter means farther from the "
            "reference record.", kind="picture"),
    Measure(WORST_LAYERS, "The layers and sites whose activations moved most in the last record of "
            "the epoch.", kind="text"),
)  # fmt: skip
_GRADIENT_SHIFT = (
    Measure("gradient_shift", "‖G − G'‖₂ on the probe batch (Santurkar et al. 2018, Def. 2.1): how "
            "far the layer's gradient moves when the layers before it take their step. 0: it does "
            "not move.", "‖G − G'‖₂"),
    Measure("gradient_shift_relative", "‖G − G'‖₂/‖G‖₂ on the probe batch.", "‖G − G'‖₂ / ‖G‖₂"),
    Measure("gradient_cosine", "Cosine of the angle between G and G' on the probe batch. 1: the "
            "same direction.", "cosine", LINEAR, still=1.0),
)  # fmt: skip
_LOSS_LANDSCAPE = tuple(row._replace(whose="model") for row in (
    Measure("loss", "Loss of the probe batch in training mode.", "loss"),
    Measure("loss_lowest", "Lowest loss of the probe batch along its negative gradient (Santurkar "
            "et al. 2018, Fig. 4a).", "loss"),
    Measure("loss_highest", "Highest loss of the probe batch along its negative gradient.", "loss"),
    Measure("predictiveness_lowest", "Least ‖∇L(θ − αg) − g‖₂ along the gradient (Fig. 4b).",
            _GRADIENT),
    Measure("predictiveness_highest", "Greatest ‖∇L(θ − αg) − g‖₂ along the gradient (Fig. 4b).",
            _GRADIENT),
    Measure("beta_smoothness", "Effective β-smoothness, the greatest ‖∇L(θ − αg) − g‖₂/‖αg‖₂ "
            "(Fig. 4c).", "1/α"),
    Measure("gradient_norm", "‖g‖₂ of the probe batch.", _GRADIENT),
))  # fmt: skip
_MEAN_GAP = Measure(
    "mean_gap", "|μ_B − μ̂|/√(σ̂² + ε), batch against moving mean; mean over channels.",
    "σ of the moving statistics",
)  # fmt: skip
_VARIANCE_LOG_RATIO = Measure(
    "variance_log_ratio", "½ ln((σ_B² + ε)/(σ̂² + ε)), batch against moving variance; mean over "
    "channels. 0: equal.", "½ ln of the ratio", LINEAR,
)  # fmt: skip
_MOVING_STATISTICS = (
    _MEAN_GAP, _worst(_MEAN_GAP), _VARIANCE_LOG_RATIO, _worst(_VARIANCE_LOG_RATIO),
    Measure("output_gap", "Root mean square of the layer's output in training mode minus its "
            "output in inference mode, on the same input.", "unit of the output"),
    Measure("gamma_mean", "Mean of γ over channels.", "γ", LINEAR),
    Measure("gamma_std", "Standard deviation of γ over channels.", "γ"),
    Measure("beta_mean", "Mean of β over channels.", "β", LINEAR),
    Measure("beta_std", "Standard deviation of β over channels.", "β"),
    Measure("refused_share", "Skipped updates per training batch since the previous record, in the "
            "worst channel. An update is skipped if a batch has no variance for the channel. With "
            "ghost batches, each of them counts. Only kbn's layer.", "updates per batch", LINEAR),
    Measure("steps_to_settle", "Number of updates, at this momentum and with batches like the "
            "probe batch, after which both gaps of every channel are at most 0.05.", "updates"),
    Measure("loss_training", "Loss of the probe batch with batch statistics (training mode).",
            "loss", whose="model", offered=False),
    Measure("loss_inference", "Loss of the probe batch with moving statistics (inference mode).",
            "loss", whose="model", offered=False),
    Measure("loss_gap", "Loss in inference mode minus loss in training mode.", "loss", LINEAR,
            whose="model", offered=False),
)  # fmt: skip
_OF_EVERY_RUN = Measure(
    MONITOR, "Cost of the record: milliseconds for which training waited, and bytes written. "
    "Also the cost of all records, the settings of the callback, and the layers in the order of "
    "the model.", kind="text",
)  # fmt: skip

RUNS = (
    Run("covariate_shift", "CovariateShift", lambda: (*_SHAPE, *_distances(), *_HEALTH)),
    Run("gradient_shift", "GradientShift", lambda: _GRADIENT_SHIFT),
    Run("loss_landscape", "LossLandscape", lambda: _LOSS_LANDSCAPE),
    Run("moving_statistics", "MovingStatistics", lambda: _MOVING_STATISTICS),
)


def run_of(callback: str) -> str:
    """Return the name of the run that `callback`, the name of a class, writes."""
    return next(run.name for run in RUNS if run.callback == callback)


@functools.cache
def measures() -> dict[str, Measure]:
    """Return all rows by name, in the order in which the dashboard shows them."""
    rows = [row for run in RUNS for row in run.measures()]
    return {row.name: row for row in (*rows, _OF_EVERY_RUN)}


@functools.cache
def scalars(run: str) -> tuple[str, ...]:
    """Return the names of the scalars in `run`, a name in `RUNS`, for layers and the model."""
    (rows,) = (each.measures() for each in RUNS if each.name == run)
    return tuple(row.name for row in rows if row.kind == "scalar")


@functools.cache
def distances() -> tuple[str, ...]:
    """Return the names of the distances, without those that end in `_worst`."""
    from kbn.distributions.distances import DISTANCES

    return tuple(DISTANCES)


def _distances() -> list[Measure]:
    from kbn.distributions.distances import DISTANCES

    def row(of: "Distance", name: str, meaning: str) -> Measure:
        return Measure(
            name, f"{of.meaning}; {meaning}.", of.unit, of.scale, symbol=of.symbol, is_distance=True
        )

    means = "per channel, then the mean over channels. 0: nothing moved"
    worst = "of the channel that moved most"
    return [
        *(row(of, name, means) for name, of in DISTANCES.items()),
        *(row(of, f"{name}_worst", worst) for name, of in DISTANCES.items()),
    ]
