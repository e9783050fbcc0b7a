"""The report on recorded runs: one HTML file that opens offline."""

import datetime
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from kbn.common import versions
from kbn.dashboard.board import Dashboard
from kbn.dashboard.event_files import Track, silently
from kbn.dashboard.figures import FIGURES, Figure
from kbn.dashboard.page import Section, page
from kbn.diagnosis.summary import totals
from kbn.records import file_systems, markdown
from kbn.records.strict_json import Json, strict

LIBRARIES = ("kbn", "tensorboard", "plotly", "numpy")


def write(
    board: Dashboard,
    log_dir: str | os.PathLike[str],
    target: str | os.PathLike[str],
    track: Track[Figure] = silently,
) -> None:
    """Write the report on `board`.

    Args:
        board: the runs to report on.
        log_dir: the folder that was read, for the heading.
        target: the HTML file; its folder is created if it does not exist.
        track: shows the progress.

    Raises:
        ValueError: if the file is not on this machine.
    """
    path = Path(file_systems.here("output", target))
    path.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    made = f"{os.fspath(log_dir)}, {len(board.runs)} runs, written {now}"
    content = page("Covariate shift", made, list(_sections(board, track)))
    path.write_text(content, encoding="utf-8", errors="backslashreplace")


def numbers(board: Dashboard, measure: str | None = None) -> Json:
    """Return the report's numbers and findings as plain values for strict JSON."""
    measure = measure or board.distance
    moved = board.moved(measure)
    return strict({
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


def _sections(board: Dashboard, track: Track[Figure]) -> Iterator[Section]:
    if not board.runs:
        hint = (
            "Nothing was recorded here. Add kbn.callbacks.CovariateShift(log_dir, probe_data) to "
            "the callbacks of model.fit."
        )
        yield Section("No runs", hint)
    else:
        yield Section("Findings", points=board.verdict())
    if board.skipped:
        yield Section("What could not be read", points=board.skipped)
    for figure in track(list(FIGURES.values()), "Drawing"):
        if _has(board, figure):
            part = figure.part(board)
            text = f"{figure.text} {part.text}".strip()
            yield Section(figure.title, text, tables=part.tables, figures=part.figures)
    yield Section("Settings", tables=_settings(board))
    yield Section("Libraries of this report", tables=[_libraries()])


def _has(board: Dashboard, figure: Figure) -> bool:
    """Return whether `figure` can be drawn. With an option `measure`, it needs a distance."""
    if "measure" in figure.options and board.distance is None:
        return False
    return not figure.needs or board.recorded(figure.needs)


def _settings(board: Dashboard) -> list[list[Sequence[str]]]:
    """Return the settings of each callback, as tables."""
    tables: list[list[Sequence[str]]] = []
    for run, by_callback in board.settings().items():
        for text in by_callback.values():
            (callback, *others), *rows = markdown.read(text) or [("",)]
            tables.append([(f"{board.label(run)}: {callback}", *others), *rows])
    return tables


def _libraries() -> list[Sequence[str]]:
    found = versions.installed(LIBRARIES)
    return [("library", "version"), *found.items(), ("Python", platform.python_version())]
