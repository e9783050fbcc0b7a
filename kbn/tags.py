"""Every TensorBoard tag and measure name, once: writers and readers share it.

A tag is `measure/layer/site`. TensorBoard groups tags by their first segment, so one group holds
one measure and lists the layers below it.
"""

from typing import NamedTuple

RUN_DIRECTORY = "covariate_shift"
"""The run below `log_dir` that the covariate-shift hook writes, alone."""

SITES = ("input", "output")
HISTOGRAM = "activations"
PERCENTILES = (15, 50, 85)
WASSERSTEIN = "wasserstein"
JEFFREYS = "jeffreys"
PERCENTILE_MEASURES = tuple(f"percentile_{percent}" for percent in PERCENTILES)

DESCRIPTIONS = {
    HISTOGRAM: "Distribution of the layer's activations on the fixed probe batch, with buckets "
    "cut at quantiles: the Distributions tab shows exact percentiles.",
    "percentile_15": "15th percentile of the activations (Ioffe & Szegedy 2015, Fig. 1).",
    "percentile_50": "Median of the activations (Ioffe & Szegedy 2015, Fig. 1).",
    "percentile_85": "85th percentile of the activations (Ioffe & Szegedy 2015, Fig. 1).",
    "mean": "Mean of all finite activations.",
    "std": "Standard deviation of all finite activations.",
    WASSERSTEIN: "Wasserstein-1 distance to the reference record, in standard deviations of the "
    "reference; per channel, then the mean over channels. 0: nothing moved.",
    JEFFREYS: "Jeffreys divergence to the reference record, both taken as Gaussian; per channel, "
    "then the mean over channels. 0: mean and spread as they were.",
    "non_finite": "Share of inf and NaN values, 0 to 1.",
    "zeros": "Share of values that are exactly zero, 0 to 1.",
}
MEASURES = tuple(measure for measure in DESCRIPTIONS if measure != HISTOGRAM)


class Tap(NamedTuple):
    """One place in the model that is watched.

    Attributes:
        layer: the layer's path, with `:i` for the i-th call of a shared layer.
        site: "input" or "output", with `:i` for the i-th of several tensors.
    """

    layer: str
    site: str


class Row(NamedTuple):
    """One number of one record, as kept in a callback's `history` and in the event file."""

    step: int
    layer: str
    site: str
    measure: str
    value: float


def tag(measure: str, tap: Tap) -> str:
    """Return the tag under which `measure` of `tap` is written."""
    return f"{measure}/{tap.layer}/{tap.site}"
