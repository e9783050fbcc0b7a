"""The options of a callback and the library versions, as tables for TensorBoard's Text tab."""

import inspect
import platform

import keras
from keras import tree

from kbn.callbacks.recording.interface import RecordingCallback
from kbn.common import versions
from kbn.introspection.parts import part_of
from kbn.records import markdown
from kbn.records.history import Rows

_LIBRARIES = ("kbn", "keras", "tensorflow", "tensorflow-cpu", "jax", "torch",
              "tensorboard", "numpy")  # fmt: skip
_LONGEST = 300  # characters of a value


def settings(callback: RecordingCallback) -> str:
    """Return the options of `callback`, its probe, its model and the versions as Markdown.

    A callback keeps each option in an attribute of the same name, and the probe batch in `probe`.
    """
    names = inspect.signature(type(callback)).parameters
    options = {name: getattr(callback, name) for name in names if hasattr(callback, name)}
    given = vars(callback.schedule).items()
    cadence = {name: value for name, value in given if value is not None}
    model, arrays = callback.model, tree.flatten(callback.probe)
    optimizer = getattr(model, "optimizer", None)
    watched = part_of(model, callback.part)
    names_of = {} if watched is model else {"watched part": _described(watched)}
    shapes = [str(tuple(array.shape)) for array in arrays if array is not None]
    rows = {
        **cadence, **options, "budget": callback.budget,
        "probe_data, kept": ", ".join(shapes),
        "model": _described(model), **names_of,
        "optimizer": "none" if optimizer is None else type(optimizer).__name__,
        **callback.notes, **_versions(),
    }  # fmt: skip
    texts = [(name, _text(value)) for name, value in rows.items()]
    return markdown.table((type(callback).__name__, "setting"), texts)


def layers_in_order(rows: Rows) -> str:
    """Return the layers of a record, in order, as Markdown; tags in an event file have no order."""
    layers = dict.fromkeys(layer for layer, _, _ in rows.places)
    return markdown.table(("layer",), [(layer,) for layer in layers])


def _described(model: keras.Model) -> str:
    size = f"{model.count_params():,} parameters" if model.built else "not built"
    return f"{type(model).__name__} {model.name!r}, {size}"


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "backend": keras.backend.backend()}
    return found | versions.installed(_LIBRARIES)


def _text(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
