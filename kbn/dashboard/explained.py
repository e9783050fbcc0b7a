"""What each figure shows, in a sentence or two: the report and the tab share it."""

from kbn.records import catalogue

FIGURES = {
    "heat_map": (
        "Where and when layers move",
        "One line per layer, in the order in which the model calls them, the first at the top; the "
        "brighter, the farther its activations on the fixed probe batch moved since the reference "
        "record. Weights alone make that difference: the data is the same.",
    ),
    "worst_layers": (
        "The layers that moved most",
        "By the mean over records; a distance's first, which compares with itself, is left out.",
    ),
    "percentiles": (
        "Percentiles of activations",
        "15 % of a layer's values lie below the band and 15 % above it, half below the line "
        "(Ioffe & Szegedy 2015, Fig. 1). A band that drifts is covariate shift; one that narrows "
        "to nothing is a layer that no longer tells its inputs apart.",
    ),
    "ridge": (
        "Distribution of one layer",
        "The density of its activations, from the first record at the top to the last at the "
        "bottom.",
    ),
    "compared": (
        "Runs compared",
        "The median over layers, with a band from the tenth to the ninetieth percentile; or one "
        "layer.",
    ),
    "gradient_shift": (
        "Gradient shift",
        "How much a layer's gradient changes when the layers below it take their step: relative to "
        "its length (0: not at all), and the cosine between both (1: it points where it did).",
    ),
    "landscape": (
        "Landscape of the loss",
        "The range of the loss, and of the change of its gradient, along the gradient's direction: "
        "the narrower, the better a step's outcome can be foretold. β is the steepest change of "
        "the gradient per distance.",
    ),
    "statistics_gap": (
        "Moving statistics",
        "How far the moving mean and variance, by which inference normalizes, are from those of "
        "the probe batch (0: equal), what that does to the layer's output, and to the loss.",
    ),
}


def measure(name: str) -> str:
    """Return what a measure is."""
    return catalogue.measures()[name].meaning
