"""The part of a model to look at: the model itself, or a layer inside it."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import keras

Part: TypeAlias = keras.layers.Layer | Callable[[keras.Model], keras.layers.Layer] | None
"""The `model` argument of callbacks: a part, a function from the trained model to it, or None."""


def check_part(part: Part) -> Part:
    """Return the `model` argument of a callback, checked as far as possible without a model.

    Raises:
        TypeError: if it is neither a model nor a layer, a function or None.
    """
    if part is None or (callable(part) and not isinstance(part, type)):
        return part
    raise TypeError(
        "model must be the part to watch (a model or a layer), a function from the trained model "
        f"to this part, or None for the whole model. Received: model={part!r}"
    )


def part_of(model: keras.Model, part: Part) -> keras.Model:
    """Return the part of `model` that the argument `part` names.

    Raises:
        TypeError: if a function returns something else than a layer.
        ValueError: if the part has no `call`, so that it cannot be run, or does not belong to
            `model`.
    """
    found = model if part is None else part if isinstance(part, keras.layers.Layer) else part(model)
    if not isinstance(found, keras.layers.Layer):
        raise TypeError(
            "The function given as model must return a model or a layer. "
            f"Received: model={part!r}, which returned {found!r}"
        )
    check_has_call(found)
    _check_belongs(found, model)
    return found


def _check_belongs(part: keras.layers.Layer, model: keras.Model) -> None:
    """Raise if training `model` cannot change `part`."""
    inside = {id(layer) for layer in model._flatten_layers()}
    if any(id(layer) in inside for layer in part._flatten_layers()):
        return
    raise ValueError(
        "model must be a part of the model that is trained. A copy of a callback has a copy of its "
        "part: pass a function from the trained model to the part, such as "
        f"model=lambda model: model.encoder. Received: model={part.name!r}, which shares no layer "
        f"with {model.name!r}"
    )


def check_has_call(model: keras.layers.Layer) -> None:
    """Raise if `model` cannot be run.

    Raises:
        ValueError: if its class has no `call`; the message names its parts.
    """
    if type(model).call not in (keras.Model.call, keras.layers.Layer.call):
        return
    parts = [name for key, value in vars(model).items() for name in _parts(key, value)]
    such = f", for example model=your_model.{parts[0]}" if parts else ""
    raise ValueError(
        f"{type(model).__name__} has no call, so it cannot be run on data. Pass a part of it as "
        f"model{such}. Received: model={model.name!r} with the parts {parts}"
    )


def _parts(name: str, value: object) -> Iterator[str]:
    """Yield the names of the layers in an attribute, also in a list or a dict."""
    if name.startswith("_"):
        return
    if isinstance(value, keras.layers.Layer):
        yield name
    elif isinstance(value, list | tuple | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        yield from (
            f"{name}[{key!r}]" for key, each in items if isinstance(each, keras.layers.Layer)
        )
