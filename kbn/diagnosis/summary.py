"""What a log says, in numbers and in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kbn.dashboard.reader import Places, RunReader
from kbn.records import catalogue
from kbn.records.tags import Place

SIMILAR = 0.1  # shifts that differ by less than this share are called about equal
ALARMS = {
    "non_finite": (0.0, "has inf or NaN among its values (diverged, and not compared)"),
    "dead": (0.5, "has more than half of its channels at zero over the whole probe (dying)"),
    "saturated": (0.5, "has more than half of its values at the bounds of its activation"),
    "mean_gap": (1.0, "normalizes with a moving mean more than 1 σ off the probe's (stale: "
                 "recalibrate, lower momentum or a larger batch)"),
}  # fmt: skip
"""By measure: what the last record may not exceed, and what it means where it does."""


class Moved(NamedTuple):
    """How far one place moved.

    Attributes:
        run: its run.
        place: the place.
        mean: over the records that know it; inf where one of them is.
        farthest: of them, the one farthest from where nothing moves.
        at: its step.
        records: how many there are.
    """

    run: str
    place: Place
    mean: float
    farthest: float
    at: int
    records: int


def far(values: Any, measure: str) -> Any:
    """Return how far `values` are from the value of `measure` if nothing moves."""
    return np.abs(values - catalogue.measures()[measure].still)


def moved(runs: Mapping[str, Places], measure: str) -> list[Moved]:
    """Return how far each place of each run moved, the farthest first.

    Args:
        runs: the places of each run, by its name.
        measure: what their values are.
    """
    # A record compared with itself, as the first is, tells nothing.
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
    return sorted(found, key=lambda one: -far(one.mean, measure))


def totals(found: Sequence[Moved]) -> dict[str, float]:
    """Return by run the mean over its places."""
    runs = dict.fromkeys(one.run for one in found)
    return {run: float(np.mean([one.mean for one in found if one.run == run])) for run in runs}


def verdict(log: RunReader, runs: Sequence[str], measure: str, found: Sequence[Moved]) -> list[str]:
    """Say in sentences which run moved less, where most, and what looks broken.

    A run that ended in inf or NaN is not compared: what is left of it hardly moves.

    Args:
        log: what was recorded.
        runs: which of its runs.
        measure: the distance that is told.
        found: how far each place moved by it, the farthest first.
    """
    diverged = {run for run in runs if _beyond(log, run, "non_finite")}
    found = [one for one in found if one.run not in diverged]
    sentences = [_of_run(run, found, measure) for run in runs if any(m.run == run for m in found)]
    sentences += _compared(totals(found))
    for run in runs:
        sentences += _alarms(log, run)
    if not sentences:
        some = any(log.places(run, measure) for run in runs)
        more = " of more than a first record" if some else ""
        sentences = [f"No run has {measure}{more}: nothing can be said about how far layers moved."]
    return sentences + log.refused()


def _of_run(run: str, found: Sequence[Moved], measure: str) -> str:
    own = [one for one in found if one.run == run]
    most, mean = own[0], np.mean([one.mean for one in own])
    where = f"{most.place.layer} ({most.place.site})"
    return (
        f"{run}: over {most.records} records, layers moved by {mean:.3g} from each reference "
        f"record, in the mean ({measure}); most moved {where}, by {most.mean:.3g}, and at step "
        f"{most.at} by {most.farthest:.3g}."
    )


def _compared(by_run: Mapping[str, float]) -> list[str]:
    if len(by_run) < 2:
        return []
    (least, low), *_, (most, high) = sorted(by_run.items(), key=lambda item: item[1])
    if not np.isfinite(high):
        return [f"{most} diverged: a layer of it moved infinitely far."]
    if high - low <= SIMILAR * high:
        return [f"{least} and {most} moved about equally far ({low:.3g} and {high:.3g})."]
    return [f"{least} moved least ({low:.3g}), {most} most ({high:.3g}, {high / low:.1f} times)."
            if low > 0 else f"{least} did not move; {most} moved most ({high:.3g})."]  # fmt: skip


def _alarms(log: RunReader, run: str) -> list[str]:
    sentences = []
    for measure, (_, meaning) in ALARMS.items():
        beyond = _beyond(log, run, measure)
        if beyond:
            worst = max(beyond, key=lambda place: beyond[place])
            others = f", like {len(beyond) - 1} more," if len(beyond) > 1 else ""
            sentences.append(
                f"{run}: {worst.layer} ({worst.site}){others} {meaning}: "
                f"{measure} {beyond[worst]:.3g} in the last record."
            )
    return sentences


def _beyond(log: RunReader, run: str, measure: str) -> dict[Place, float]:
    """Return the last value of an alarm's measure at the places where it is too great."""
    most, _ = ALARMS[measure]
    last = {place: float(of.values[-1]) for place, of in log.series(run, measure).items()}
    return {place: value for place, value in last.items() if value > most}
