"""The scalars of one record of `CovariateShift`, by place and measure."""

from collections.abc import Mapping, Sequence

import numpy as np

from kbn.distributions.distances import DISTANCES
from kbn.distributions.sketch import Channels, DistributionSketch, means_of_known
from kbn.records import catalogue
from kbn.records.tags import Place

Sketches = Mapping[Place, DistributionSketch]
# A larger number would take more memory, and the same time.
VALUES_AT_ONCE = 2**18


def measured(
    distances: Sequence[str], sketches: Sketches, references: Sketches
) -> dict[Place, dict[str, float]]:
    """Return the scalars of every place, with distances if it has a reference.

    Places of equal shape are measured together, because small NumPy calls for each place take
    longer than the arithmetic.

    Args:
        distances: names in `DISTANCES`. Each yields the mean over channels, and as `<name>_worst`
            the distance of the channel that moved most.
        sketches: the sketches of this record.
        references: the sketches to compare with, by place. With `run_eagerly`, a reference may have
            another number of channels; then it is ignored.
    """
    references = {
        place: reference
        for place, reference in references.items()
        if place in sketches and len(reference.mean) == len(sketches[place].mean)
    }
    alike: dict[tuple[object, ...], list[Place]] = {}
    for place, sketch in sketches.items():
        kind = sketch.values.shape, sketch.complete
        reference = references.get(place)
        against = None if reference is None else (len(reference.values), reference.complete)
        alike.setdefault((kind, against), []).append(place)
    found: dict[Place, dict[str, float]] = {}
    for group in alike.values():
        at_once = max(1, VALUES_AT_ONCE // max(sketches[group[0]].values.size, 1))
        for first in range(0, len(group), at_once):
            places = group[first : first + at_once]
            before = [references[place] for place in places if place in references]
            together = _together(distances, [sketches[place] for place in places], before)
            found.update(zip(places, together, strict=True))
    return {place: found[place] for place in sketches}


def _together(
    distances: Sequence[str],
    sketches: Sequence[DistributionSketch],
    references: Sequence[DistributionSketch],
) -> list[dict[str, float]]:
    now, spans = Channels.side_by_side(sketches), _spans(sketches)
    kurtosis = means_of_known(now.kurtosis_by_channel(), spans)
    found = list(map(_of_one, sketches, kurtosis))
    if references:
        before = Channels.side_by_side(references)
        for name in distances:
            distances_of = DISTANCES[name].function(now, before).means_and_worsts(spans)
            for values, (mean, worst) in zip(found, distances_of, strict=True):
                values[name], values[f"{name}_worst"] = mean, worst
    return found


def _spans(sketches: Sequence[Channels]) -> list[slice]:
    """Return the span of each sketch's channels among the channels of all."""
    ends = np.cumsum([len(sketch.mean) for sketch in sketches]).tolist()
    return [slice(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


def _of_one(sketch: DistributionSketch, kurtosis: float) -> dict[str, float]:
    """Return the scalars of a place that need no reference."""
    scalars = {
        **{name: sketch.percentile(q) for name, q in catalogue.PERCENTILES.items()},
        "mean": sketch.pooled_mean(),
        "std": sketch.pooled_std(),
        "kurtosis": kurtosis,
        "non_finite": sketch.non_finite_share,
        "zeros": sketch.zero_share,
        "dead": sketch.dead_share,
    }
    if sketch.saturated_share is not None:
        scalars["saturated"] = sketch.saturated_share
    return scalars
