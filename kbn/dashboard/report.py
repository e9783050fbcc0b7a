"""The report: one HTML file of a log, to keep, to send and to open offline."""

import datetime
import math
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kbn.common import versions
from kbn.dashboard import explained
from kbn.dashboard.board import Dashboard
from kbn.dashboard.page import Section, page
from kbn.records import markdown

WORST = 15  # layers in the table
RIDGES = 2  # layers whose distributions are drawn
LIBRARIES = ("kbn", "tensorboard", "plotly", "numpy")


def write(
    board: Dashboard, log_dir: str | os.PathLike[str], target: str | os.PathLike[str]
) -> None:
    """Write the report on `board`.

    Args:
        board: what it is about.
        log_dir: where that was read, for its heading.
        target: the HTML file; its folder is made where absent.
    """
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    made = f"{os.fspath(log_dir)}, {len(board.runs)} runs, written {now}"
    content = page("Covariate shift", made, list(_sections(board)))
    path.write_text(content, encoding="utf-8", errors="backslashreplace")


def numbers(board: Dashboard, measure: str | None = None) -> dict[str, Any]:
    """Return what the report says, as plain values for JSON."""
    from kbn.diagnosis.summary import totals

    measure = measure or board.distance
    moved = board.moved(measure)
    return _strict({
        "runs": board.runs,
        "measure": measure,
        "mean_by_run": totals(moved),
        "layers": [
            {"run": one.run, "layer": one.place.layer, "site": one.place.site, "mean": one.mean,
             "farthest": one.farthest, "at_step": one.at, "records": one.records}
            for one in moved
        ],
        "verdict": board.verdict(measure),
        "skipped": board.skipped,
    })  # fmt: skip


def _strict(value: Any) -> Any:
    """Return `value` with strings for what JSON lacks: NaN and infinities."""
    if isinstance(value, dict):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_strict(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _sections(board: Dashboard) -> Iterator[Section]:
    if not board.runs:
        hint = (
            "Nothing was recorded here. Add kbn.callbacks.CovariateShift(log_dir, probe_data) to "
            "the callbacks of model.fit."
        )
        yield Section("No runs", hint)
    else:
        yield Section("In words", points=board.verdict())
    if board.skipped:
        yield Section("What could not be read", points=board.skipped)
    known = set(board.measures)
    if board.distance is not None:
        yield _section("heat_map", board.heat_map(), text=explained.measure(board.distance))
        yield Section(*explained.FIGURES["worst_layers"], tables=[_worst(board)])
        yield _section("compared", board.compared())
    if "percentile_50" in known:
        yield _section("percentiles", board.percentiles())
    ridges = _ridges(board)
    if ridges:
        yield _section("ridge", *ridges)
    for name, needed in (("gradient_shift", "gradient_shift"), ("landscape", "beta_smoothness"),
                         ("statistics_gap", "mean_gap")):  # fmt: skip
        if needed in known:
            yield _section(name, getattr(board, name)())
    yield Section("Settings", tables=_settings(board))
    yield Section("Libraries of this report", tables=[_libraries()])


def _section(name: str, *figures: Any, text: str = "") -> Section:
    title, sentence = explained.FIGURES[name]
    return Section(title, f"{sentence} {text}".strip(), figures=figures)


def _worst(board: Dashboard) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("run", "layer", "site", "mean", "farthest", "at step")]
    for one in board.moved()[:WORST]:
        rows.append((one.run, one.place.layer, one.place.site, f"{one.mean:.3g}",
                     f"{one.farthest:.3g}", str(one.at)))  # fmt: skip
    return rows


def _ridges(board: Dashboard) -> list[Any]:
    """Draw the layer that moved most and the last one."""
    moved = [one.place.layer for one in board.moved()]
    with_histograms = board.histogram_layers
    wanted = dict.fromkeys([*moved[:1], *with_histograms[-1:]])
    return [board.ridge(layer) for layer in wanted if layer in with_histograms][:RIDGES]


def _settings(board: Dashboard) -> list[list[Sequence[str]]]:
    """Return what each callback was given, as tables."""
    tables: list[list[Sequence[str]]] = []
    for run, by_callback in board.settings().items():
        for text in by_callback.values():
            (hook, *others), *rows = markdown.read(text) or [("",)]
            tables.append([(f"{run}: {hook}", *others), *rows])
    return tables


def _libraries() -> list[Sequence[str]]:
    found = versions.installed(LIBRARIES)
    return [("library", "version"), *found.items(), ("Python", platform.python_version())]
