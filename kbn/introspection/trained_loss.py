"""Which loss a model trains on, as far as its code shows."""

import types
from collections.abc import Iterator

import keras

COMPILED = frozenset({"compute_loss", "train_step", "compiled_loss", "_compute_loss"})
"""Names whose use in `train_step` means that it trains on the loss of `compile`."""


def trains_on_its_loss(model: keras.Model) -> bool:
    """Return whether `fit` trains on `model.compute_loss`, as far as the code shows.

    Keras's own `train_step` does. A custom one does if it, or a method of the same class that it
    uses, mentions `compute_loss` or the inherited `train_step`.
    """
    step = getattr(model, "train_step", None)
    step = getattr(step, "__func__", step)
    if step is None or _is_of_keras(step):
        return step is not None
    return any(name in COMPILED for name in _names_used(type(model), step, set()))


def _names_used(owner: type, function: object, seen: set[str]) -> Iterator[str]:
    """Yield the names of attributes that `function` uses, and those that its methods use."""
    code = getattr(getattr(function, "__wrapped__", function), "__code__", None)
    for part in _parts(code) if code is not None else ():
        for name in part.co_names:
            yield name
            method = getattr(owner, name, None)
            if name not in seen and callable(method) and not _is_of_keras(method):
                seen.add(name)
                yield from _names_used(owner, method, seen)


def _parts(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield `code` and the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _parts(constant)


def _is_of_keras(function: object) -> bool:
    return getattr(function, "__module__", "").partition(".")[0] == "keras"
