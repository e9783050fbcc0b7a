"""Look at every layer's call while a function runs or is traced; nothing stays attached."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
from keras import ops, tree


class Call(NamedTuple):
    """One call of a layer.

    Attributes:
        layer: the layer.
        inputs: its first argument that holds a tensor, or None.
        mask: the mask that came with it, as an argument or on the tensor, or None.
        outputs: what it returned.
    """

    layer: keras.layers.Layer
    inputs: Any
    mask: Any
    outputs: Any


_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def tapped(observe: Callable[[Call], None]) -> Iterator[None]:
    """Tell `observe` of every layer's call in this thread."""
    # Taps of two threads would be taken off in the wrong order.
    with _ONE_AT_A_TIME:
        yield from _tapped_alone(observe)


def _tapped_alone(observe: Callable[[Call], None]) -> Iterator[None]:
    original = keras.layers.Layer.__call__
    owner = threading.get_ident()

    def tapped_call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        outputs = original(layer, *args, **kwargs)
        if threading.get_ident() == owner:
            inputs = _first_argument(args, kwargs)
            # Keras lets masks travel on the tensor, and takes an argument first.
            mask = kwargs.get("mask")
            mask = getattr(inputs, "_keras_mask", None) if mask is None else mask
            observe(Call(layer, inputs, mask, outputs))
        return outputs

    keras.layers.Layer.__call__ = tapped_call
    try:
        yield
    finally:
        keras.layers.Layer.__call__ = original


def _first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    candidates = (*args, *kwargs.values())
    return next((x for x in candidates if any(map(ops.is_tensor, tree.flatten(x)))), None)


def training_argument(model: keras.Model, training: bool) -> dict[str, bool]:
    """Return what `fit` and `predict` pass: `training` only to a model whose `call` takes it.

    The model is called, not its `call`, so that layers inherit `training` as they do in `fit`.
    """
    return {"training": training} if model._call_has_training_arg else {}


def seeds(model: keras.Model, number: Any = 0) -> list[tuple[Any, Any]]:
    """Return a state for every seed of `model`, always the same for a given `number`.

    For a `keras.StatelessScope`: the seeds themselves stay where they are.
    """
    states = [v for v in model.non_trainable_variables if v.path.endswith("seed_generator_state")]
    return [
        (state, ops.stack([ops.cast(index + 1, state.dtype), ops.cast(number, state.dtype)]))
        for index, state in enumerate(states)
    ]
