"""The part of a model to look at: the model itself, or a layer inside it."""

from collections.abc import Callable
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
        ValueError: if the part has no `call`, so that it cannot be run.
    """
    found = model if part is None else part if isinstance(part, keras.layers.Layer) else part(model)
    if not isinstance(found, keras.layers.Layer):
        raise TypeError(f"The function model must return a model or a layer. Received: {found!r}")
    check_has_call(found)
    return found


def check_has_call(model: keras.layers.Layer) -> None:
    """Raise if `model` cannot be run.

    Raises:
        ValueError: if its class has no `call`; the message names its parts.
    """
    if type(model).call not in (keras.Model.call, keras.layers.Layer.call):
        return
    parts = [
        name for name, part in vars(model).items()
        if isinstance(part, keras.layers.Layer) and not name.startswith("_")
    ]  # fmt: skip
    such = f", for example model=your_model.{parts[0]}" if parts else ""
    raise ValueError(
        f"{type(model).__name__} has no call, so it cannot be run on data. Pass a part of it as "
        f"model{such}. Received: model={model.name!r} with the parts {parts}"
    )
