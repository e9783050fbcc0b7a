"""What a hook was given, and by what it was made, as tables for TensorBoard's Text tab."""

import inspect
import platform
from typing import Any

import keras
from keras import tree

from kbn.callbacks.recording.schedule import Schedule
from kbn.common import versions
from kbn.records import markdown
from kbn.records.history import Rows

_LIBRARIES = ("kbn", "keras", "tensorflow", "tensorflow-cpu", "tensorboard", "numpy")
_LONGEST = 300  # characters of a value


def settings(hook: Any, schedule: Schedule, budget: float | None) -> str:
    """Return the options of `hook`, its probe and its model, and the versions, as Markdown.

    Args:
        hook: keeps its own options in attributes of their names, and the probe batch in `probe`.
        schedule: when it records.
        budget: the most that it may take.
    """
    options = {name: getattr(hook, name) for name in inspect.signature(type(hook)).parameters
               if hasattr(hook, name)}  # fmt: skip
    cadence = {name: value for name, value in vars(schedule).items() if value is not None}
    shapes = [str(tuple(array.shape)) for array in tree.flatten(hook.probe) if array is not None]
    rows = {
        **cadence, **options, "budget": budget,
        "probe_data, kept": ", ".join(shapes),
        "model": f"{type(hook.model).__name__} {hook.model.name!r}, "
        f"{hook.model.count_params():,} parameters",
        "optimizer": type(hook.model.optimizer).__name__,
        **_versions(),
    }  # fmt: skip
    texts = [(name, _text(value)) for name, value in rows.items()]
    return markdown.table((type(hook).__name__, "setting"), texts)


def layers_in_order(rows: Rows) -> str:
    """Return the layers of a record as Markdown; nothing else in an event file has an order."""
    layers = dict.fromkeys(layer for layer, _, _ in rows.places)
    return markdown.table(("layer",), [(layer,) for layer in layers])


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "backend": keras.backend.backend()}
    return found | versions.installed(_LIBRARIES)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
