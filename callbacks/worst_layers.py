"""One picture and one table that say which layers moved most."""

import numpy as np

from kbn import tags
from kbn.callbacks.picture import heat_map
from kbn.callbacks.writer import Record
from kbn.history import History

LINES = 24
COLUMNS = 160  # records; of more, several share a column, and the greatest is shown


def summary(history: History, measure: str) -> Record:
    """Return a heat map of the worst layers over all records, and a table of the last ones."""
    found = {place: one for place, one in history.series(measure).items() if len(one[0])}
    if not found:
        return Record()
    steps = np.unique(np.concatenate([at for at, _ in found.values()]))
    values = np.full((len(found), len(steps)), np.nan)
    for line, (at, moved) in enumerate(found.values()):
        values[line, np.searchsorted(steps, at)] = moved
    places = [f"{layer} {site}" for layer, site in found]
    worst = np.sort(_worst_first(values)[:LINES])  # as many as fit, in the order of the model
    drawn = heat_map(_fewer_columns(values[worst]), [places[i] for i in worst], steps.tolist())
    text = _table(places, values[:, -1], int(steps[-1]), measure)
    return Record(pictures={tags.HEAT_MAP: drawn}, texts={tags.WORST_LAYERS: text})


def _worst_first(values: np.ndarray) -> np.ndarray:
    """Order lines by their mean; what was inf stands before all, what is unknown behind."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.argsort(-np.where(known.any(axis=1), total, -np.inf), kind="stable")


def _fewer_columns(values: np.ndarray) -> np.ndarray:
    if values.shape[1] <= COLUMNS:
        return values
    parts = np.array_split(values, COLUMNS, axis=1)
    return np.stack([np.fmax.reduce(part, axis=1) for part in parts], axis=1)


def _table(places: list[str], last: np.ndarray, step: int, measure: str) -> str:
    order = np.argsort(-np.nan_to_num(last, nan=-np.inf, posinf=np.inf), kind="stable")[:LINES]
    lines = [f"| {_quoted(places[i])} | {last[i]:.4g} |" for i in order]
    return "\n".join([f"| place | {measure} at step {step} |", "| --- | --- |", *lines])


def _quoted(name: str) -> str:
    """Return a layer's name such that Markdown shows it as it is."""
    name = " ".join(name.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{c}" if c in r"\`*_{}[]()>#+-.!|" else c for c in name)
