"""Whether inference would be off with the moving statistics as they are, and what to do then."""

import math

from kbn.callbacks.probing.statistics_gap import Gap
from kbn.records.tags import Place

# Inference is off if, on average over the channels of a layer, the mean is half a standard
# deviation away or the variance is wrong by a factor of two.
FAR_MEAN = 0.5
FAR_RATIO = 0.5 * math.log(2)
# Statistics of fewer values than this can be that far away by chance.
FEWEST_VALUES = 16


def distance(gap: Gap) -> float:
    """Return how far the moving statistics are from the batch's; above 1, users are warned."""
    measured = gap.measured
    if not gap.layer.trainable or measured["output_gap"] == 0:
        return 0.0  # training normalizes with the moving statistics too
    if gap.number < FEWEST_VALUES:
        return 0.0
    far = measured["mean_gap"] / FAR_MEAN, abs(measured["variance_log_ratio"]) / FAR_RATIO
    # This advice does not help a diverged network.
    return max(far) if all(map(math.isfinite, far)) else 0.0


def advice(step: int, place: Place, gap: Gap) -> str:
    """Return the warning that inference will be off, with numbers and what to do."""
    shift, ratio = gap.measured["mean_gap"], math.exp(2 * gap.measured["variance_log_ratio"])
    updates, momentum = gap.measured["steps_to_settle"], gap.layer.momentum
    # momentum=None gives all batches equal weight, those of the first steps too.
    faster = "a momentum such as 0.9" if momentum is None else "a lower momentum"
    return (
        f"At step {step}, inference will be off: the moving statistics of {place.layer!r} differ "
        f"from the batch statistics that training uses. The means differ by {shift:.2g} standard "
        f"deviations, and the variance of the batch is {ratio:.2g} times the moving variance. With "
        f"momentum={momentum} the moving statistics need about {updates:.0f} more updates, if the "
        "activations do not change. Call kbn.recalibrate(model, data) after training, or add "
        f"kbn.callbacks.Recalibrate(data) to fit, or use {faster} or a larger batch."
    )
