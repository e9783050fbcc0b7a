"""Findings on how far layers moved and what looks broken: pure functions of recorded series."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kbn.records import catalogue
from kbn.records.series import Measures, Places
from kbn.records.tags import Place

SIMILAR = 0.1  # shifts that differ by less than this share are called about equal


class Alarm(NamedTuple):
    """A limit for the last record of a measure.

    Attributes:
        limit: the largest healthy value.
        meaning: what a larger value means, as the end of a sentence about one or more layers.
    """

    limit: float
    meaning: str


ALARMS = {
    "non_finite": Alarm(0.0, "inf or NaN among the values (diverged; not compared with other "
                        "runs)"),
    "dead": Alarm(0.5, "more than half of the channels are zero on the whole probe batch (dying)"),
    "saturated": Alarm(0.5, "more than half of the values are at the bounds of the activation "
                       "function"),
    "mean_gap": Alarm(1.0, "the moving mean is more than 1 σ from the mean of the probe batch "
                      "(stale: recalibrate, lower the momentum, or use larger batches)"),
}  # fmt: skip
"""Alarms by measure."""


class Moved(NamedTuple):
    """How far one place moved.

    Attributes:
        run: name of the run.
        place: the place.
        mean: mean over the records that have a value at the place; inf if one of them is inf.
        farthest: the value farthest from the value that means no movement.
        at: step of `farthest`.
        records: number of records that have a value at the place.
    """

    run: str
    place: Place
    mean: float
    farthest: float
    at: int
    records: int


def far(values: np.ndarray, measure: str) -> np.ndarray:
    """Return how far `values`, of any shape, are from the value that means no movement."""
    return np.abs(values - catalogue.measures()[measure].still)


def moved(runs: Mapping[str, Places], measure: str) -> list[Moved]:
    """Return how far each place of each run moved, the farthest first.

    Args:
        runs: the places of each run, by its name.
        measure: the measure of their values.
    """
    # The first record of a distance is compared with itself.
    begin = 1 if catalogue.measures()[measure].is_distance else 0
    found = []
    for run, places in runs.items():
        for place, series in places.items():
            known = ~np.isnan(series.values) & (np.arange(len(series.steps)) >= begin)
            values, steps = series.values[known], series.steps[known]
            if values.size:
                most = int(np.argmax(far(values, measure)))
                found.append(Moved(run, place, float(values.mean()), float(values[most]),
                                   int(steps[most]), len(values)))  # fmt: skip
    return sorted(found, key=lambda one: -float(far(np.array(one.mean), measure)))


def totals(found: Sequence[Moved]) -> dict[str, float]:
    """Return, for each run by its name, the mean over its places."""
    runs = dict.fromkeys(one.run for one in found)
    return {run: float(np.mean([one.mean for one in found if one.run == run])) for run in runs}


def verdict(runs: Mapping[str, Measures], measure: str, found: Sequence[Moved]) -> list[str]:
    """Return sentences: which run moved less, where it moved most, and what looks broken.

    A run that ended in inf or NaN is not compared, because its remaining values hardly move.

    Args:
        runs: the measures of each run, by its name: `measure`, and those of `ALARMS`.
        measure: the distance to report.
        found: how far each place moved by it, as `moved` returns it.
    """
    diverged = {run for run, of in runs.items() if _beyond(of, "non_finite")}
    found = [one for one in found if one.run not in diverged]
    sentences = [_of_run(run, found, measure) for run in runs if any(m.run == run for m in found)]
    sentences += _compared(totals(found))
    for run, measures in runs.items():
        sentences += _alarms(run, measures)
    if sentences:
        return sentences
    after = " after its first record" if any(of.get(measure) for of in runs.values()) else ""
    return [f"No run has {measure}{after}: how far layers moved is unknown."]


def _of_run(run: str, found: Sequence[Moved], measure: str) -> str:
    own = [one for one in found if one.run == run]
    most, mean = own[0], float(np.mean([one.mean for one in own]))
    row = catalogue.measures()[measure]

    def amount(value: float) -> str:
        return f"{value:.3g} {row.symbol}".rstrip()

    records = f"{most.records} record{'s' if most.records > 1 else ''}"
    which = "mean shift" if measure == catalogue.distances()[0] else f"mean {measure}"
    return (
        f"{run}: {which} {amount(mean)} over {records}; largest in "
        f"{most.place.layer} ({most.place.site}): {amount(most.mean)} on average, "
        f"{amount(most.farthest)} at step {most.at}."
    )


def _compared(by_run: Mapping[str, float]) -> list[str]:
    if len(by_run) < 2:
        return []
    (least, low), *_, (most, high) = sorted(by_run.items(), key=lambda item: item[1])
    if not np.isfinite(high):
        return [f"{most} diverged: the distance of one of its layers is infinite."]
    if high - low <= SIMILAR * high:
        return [f"{least} and {most} moved about equally far ({low:.3g} and {high:.3g})."]
    if low <= 0:
        return [f"{least} did not move; {most} moved most ({high:.3g})."]
    ratio = f"{high / low:.1f} times as far"
    return [f"{least} moved least ({low:.3g}), {most} most ({high:.3g}, {ratio})."]


def _alarms(run: str, measures: Measures) -> list[str]:
    sentences = []
    for measure, alarm in ALARMS.items():
        beyond = _beyond(measures, measure)
        if beyond:
            worst = max(beyond, key=lambda place: beyond[place])
            others = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
            sentences.append(
                f"{run}: {worst.layer} ({worst.site}){others}: {alarm.meaning}; "
                f"{measure} is {beyond[worst]:.3g} in the last record."
            )
    return sentences


def _beyond(measures: Measures, measure: str) -> dict[Place, float]:
    """Return the last value of an alarm's measure at the places where it is above the limit."""
    last = {place: float(of.values[-1]) for place, of in measures.get(measure, {}).items()}
    return {place: value for place, value in last.items() if value > ALARMS[measure].limit}
