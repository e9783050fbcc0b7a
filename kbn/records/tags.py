"""Every TensorBoard tag and measure name, once: writers and readers share it.

A tag is `measure/layer/site`. TensorBoard groups tags by their first segment, so one group holds
one measure and lists the layers below it.
"""

from typing import NamedTuple

RUN_DIRECTORY = "covariate_shift"
"""The run below `log_dir` that `CovariateShift` writes, alone."""
GRADIENT_RUN = "gradient_shift"
LANDSCAPE_RUN = "loss_landscape"
STATISTICS_RUN = "moving_statistics"

SITES = ("input", "output")
PROBE = "probe"
"""The site of what is measured of a layer, or the model, as a whole: on the probe batch."""
MODEL = "model"
"""Stands for a layer where a number is the model's."""
HISTOGRAM = "activations"
HEAT_MAP = "heat_map"
WORST_LAYERS = "worst_layers"
PERCENTILES = (15, 50, 85)
WASSERSTEIN = "wasserstein"
JEFFREYS = "jeffreys"
DISTANCES = (
    WASSERSTEIN,
    JEFFREYS,
    "wasserstein_gaussian",
    "jensen_shannon",
    "psi",
    "kolmogorov_smirnov",
    "energy",
)
PERCENTILE_MEASURES = tuple(f"percentile_{percent}" for percent in PERCENTILES)
MONITOR = "monitor"
COST, LAYERS, SETTINGS = f"{MONITOR}/cost", f"{MONITOR}/layers", f"{MONITOR}/settings"

_TO_REFERENCE = {
    WASSERSTEIN: "Wasserstein-1 distance to the reference record, in standard deviations of the "
    "reference",
    JEFFREYS: "Jeffreys divergence to the reference record in nats, both taken as Gaussian",
    "wasserstein_gaussian": "Wasserstein-2 distance to the reference record in the unit of the "
    "activation, both taken as Gaussian",
    "jensen_shannon": "Jensen-Shannon divergence to the reference record, in bits, 0 to 1, over "
    "ten bins of equal share of both records",
    "psi": "Population stability index against the reference record, over the reference's deciles",
    "kolmogorov_smirnov": "Kolmogorov-Smirnov distance to the reference record, 0 to 1",
    "energy": "Squared energy distance to the reference record, in the unit of the activation",
}

COVARIATE_SHIFT = {
    HISTOGRAM: "Distribution of the layer's activations on the fixed probe batch, with buckets "
    "cut at quantiles: the Distributions tab shows exact percentiles.",
    "percentile_15": "15th percentile of the activations (Ioffe & Szegedy 2015, Fig. 1).",
    "percentile_50": "Median of the activations (Ioffe & Szegedy 2015, Fig. 1).",
    "percentile_85": "85th percentile of the activations (Ioffe & Szegedy 2015, Fig. 1).",
    "mean": "Mean of all finite activations.",
    "std": "Standard deviation of all finite activations.",
    **{
        name: f"{text}; per channel, then the mean over channels. 0: nothing moved."
        for name, text in _TO_REFERENCE.items()
    },
    **{
        f"{name}_worst": f"{text}; of the channel that moved most."
        for name, text in _TO_REFERENCE.items()
    },
    "kurtosis": "Kurtosis (a normal has 3) per channel, then the mean over channels.",
    "non_finite": "Share of inf and NaN values, 0 to 1.",
    "zeros": "Share of values that are exactly zero, 0 to 1.",
    "dead": "Share of channels that are zero over the whole probe, 0 to 1.",
    "saturated": "Share of values within 1 % of the activation function's bounds, 0 to 1; for "
    "layers whose activation has bounds.",
}
GRADIENT_SHIFT = {
    "gradient_shift": "‖G − G'‖₂ on the probe batch (Santurkar et al. 2018, Def. 2.1): how far "
    "the layer's gradient moves when the layers before it take their step. 0: not at all.",
    "gradient_shift_relative": "‖G − G'‖₂/‖G‖₂ on the probe batch.",
    "gradient_cosine": "Cosine of the angle between G and G' on the probe batch. 1: as it was.",
}
LOSS_LANDSCAPE = {
    "loss": "Loss of the probe batch in training mode.",
    "loss_lowest": "Lowest loss of the probe batch along its negative gradient (Santurkar et al. "
    "2018, Fig. 4a).",
    "loss_highest": "Highest loss of the probe batch along its negative gradient.",
    "predictiveness_lowest": "Least ‖∇L(θ − αg) − g‖₂ along the gradient (Fig. 4b).",
    "predictiveness_highest": "Greatest ‖∇L(θ − αg) − g‖₂ along the gradient (Fig. 4b).",
    "beta_smoothness": "Effective β-smoothness, the greatest ‖∇L(θ − αg) − g‖₂/‖αg‖₂ (Fig. 4c).",
    "gradient_norm": "‖g‖₂ of the probe batch.",
}
LOSSES = {
    "loss_training": "Loss of the probe batch with batch statistics (training mode).",
    "loss_inference": "Loss of the probe batch with moving statistics (inference mode).",
    "loss_gap": "Loss in inference mode minus loss in training mode.",
}
MOVING_STATISTICS = {
    "mean_gap": "|μ_B − μ̂|/√(σ̂² + ε), batch against moving mean, mean over channels.",
    "mean_gap_worst": "The same, of the worst channel.",
    "variance_log_ratio": "½ ln((σ_B² + ε)/(σ̂² + ε)), mean over channels. 0: equal.",
    "variance_log_ratio_worst": "The same, of the channel where it is farthest from 0.",
    "output_gap": "Root mean square of the layer's output in training mode minus that in inference "
    "mode, on the same input.",
    "gamma_mean": "Mean of γ over channels.",
    "gamma_std": "Standard deviation of γ over channels.",
    "beta_mean": "Mean of β over channels.",
    "beta_std": "Standard deviation of β over channels.",
    "refused_share": "Updates since the record before that told a channel no variance, per "
    "training batch, 0 to 1 (with virtual batches up to their number); worst channel; kbn's layer "
    "alone.",
    "steps_to_settle": "How many more updates the moving statistics need, at this momentum, until "
    "both gaps of every channel would be 0.05 at most, if all batches were like the probe.",
    **LOSSES,
}
DESCRIPTIONS = {
    **COVARIATE_SHIFT,
    **GRADIENT_SHIFT,
    **LOSS_LANDSCAPE,
    **MOVING_STATISTICS,
    MONITOR: "What the record cost: milliseconds of training that stood still, bytes written; what "
    "all records cost; the hook's settings, and the layers in the order of the model.",
    HEAT_MAP: "Layers over records, the brighter the farther from the reference: the worst layers.",
    WORST_LAYERS: "The places whose activations moved most in the last record of the epoch.",
}


class Place(NamedTuple):
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


def tag(measure: str, place: Place) -> str:
    """Return the tag under which `measure` of `place` is written."""
    return f"{measure}/{place.layer}/{place.site}"


def parse(tag: str) -> tuple[str, Place] | None:
    """Return the measure and the place of a tag of `tag()`; None for any other tag."""
    measure, _, place = tag.partition("/")
    layer, _, site = place.rpartition("/")
    known = measure in DESCRIPTIONS and site.split(":")[0] in (*SITES, PROBE)
    return (measure, Place(layer, site)) if known and layer else None
