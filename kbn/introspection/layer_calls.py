"""Observe all layer calls while a function runs or is traced. Nothing stays attached to layers."""

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import keras
from keras import ops, tree

from kbn import backend
from kbn.common.types import Nested, Tensor

Args: TypeAlias = tuple[Nested, ...]
Arguments: TypeAlias = Mapping[str, Nested]


class LayerCall(NamedTuple):
    """One call of a layer.

    Attributes:
        layer: the layer.
        inputs: the first argument, in the order of its `call`, that contains a tensor; or None.
        mask: the mask that was passed as an argument or that `inputs` carry, or None.
        outputs: what the call returned.
        trace: the trace it ran in (see `kbn.backend.current_trace`), or the RNN whose loop it ran
            in.
    """

    layer: keras.layers.Layer
    inputs: Nested
    mask: Tensor | None
    outputs: Nested
    trace: object


_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def observe_calls(observe: Callable[[LayerCall], None]) -> Iterator[None]:
    """Pass every layer call in this thread to `observe`."""
    # Two threads would undo their patches in the wrong order.
    with _ONE_AT_A_TIME:
        yield from _observe_alone(observe)


def _observe_alone(observe: Callable[[LayerCall], None]) -> Iterator[None]:
    original = keras.layers.Layer.__call__
    owner = threading.get_ident()
    # RNNs whose loop is running. In eager mode, the steps of a loop look like other calls, and an
    # RNN calls its cell once more to find out its outputs.
    loops: list[keras.layers.Layer] = []

    def observed_call(layer: keras.layers.Layer, *args: Nested, **kwargs: Nested) -> Nested:
        if threading.get_ident() != owner:
            return original(layer, *args, **kwargs)
        inside = [layer] if isinstance(layer, keras.layers.RNN) and not layer.unroll else []
        loops.extend(inside)
        try:
            outputs = original(layer, *args, **kwargs)
        finally:
            del loops[len(loops) - len(inside) :]
        trace = loops[-1] if loops else backend.current_trace()
        observe(_call(layer, args, kwargs, outputs, trace))
        return outputs

    keras.layers.Layer.__call__ = observed_call
    try:
        yield
    finally:
        keras.layers.Layer.__call__ = original


def _call(
    layer: keras.layers.Layer, args: Args, kwargs: Arguments, outputs: Nested, trace: object
) -> LayerCall:
    arguments = _in_order(layer, args, kwargs)
    inputs = next((x for x in arguments.values() if any(map(ops.is_tensor, tree.flatten(x)))), None)
    # In Keras a tensor can carry a mask; an argument has precedence.
    mask = arguments.get("mask")
    mask = backend.carried_mask(inputs) if mask is None else mask
    return LayerCall(layer, inputs, mask, outputs, trace)


def _in_order(layer: keras.layers.Layer, args: Args, kwargs: Arguments) -> Arguments:
    """Return the arguments by name, in the order of the parameters of `call`."""
    try:
        return inspect.signature(layer.call).bind_partial(*args, **kwargs).arguments
    except TypeError:  # arguments for Keras's `__call__` alone
        return {**{str(i): value for i, value in enumerate(args)}, **kwargs}


def training_argument(model: keras.Model, training: bool) -> dict[str, bool]:
    """Return the arguments that `fit` and `predict` pass: `training` if the model's `call` has it.

    Pass them to the model, not to its `call`, so that layers inherit `training` as in `fit`.
    """
    return {"training": training} if model._call_has_training_arg else {}


def runs_eagerly(model: keras.Model) -> bool:
    """Return whether `fit` runs eagerly. A trace of such a model may fail or differ."""
    return bool(getattr(model, "run_eagerly", False))


def seeds(model: keras.Model, number: Tensor | int = 0) -> backend.Mapping:
    """Return a state for every seed of `model`, always the same for the same `number`.

    Pass it to a `keras.StatelessScope`. The seeds themselves do not change.
    """
    states = [v for v in model.non_trainable_variables if v.path.endswith("seed_generator_state")]
    return [
        (state, ops.stack([ops.cast(index + 1, state.dtype), ops.cast(number, state.dtype)]))
        for index, state in enumerate(states)
    ]
