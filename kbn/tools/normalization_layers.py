"""The batch normalization layers of a model: which ones training updates, and their statistics."""

from collections.abc import Callable
from typing import TypeAlias

import keras
import numpy as np

from kbn import backend
from kbn.common.types import Nested, Tensor
from kbn.introspection.layer_calls import (
    LayerCall,
    observe_calls,
    runs_eagerly,
    seeds,
    training_argument,
)
from kbn.introspection.parts import check_has_call
from kbn.ops.masks import is_carried, weights_for
from kbn.tools.population import InferenceStatistics

Normalization: TypeAlias = keras.layers.BatchNormalization
"""A batch normalization layer, kbn's or Keras's."""


def moved_layers(model: keras.Model, inputs: Nested) -> list[Normalization]:
    """Return the normalization layers that training would update, in the order of their calls."""
    check_has_call(model)
    if not model.built:
        raise ValueError(
            f"The model is not built. Train it or call it first. Received: model={model.name!r}"
        )
    norms = [x for x in model._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
    seen: list[Normalization] = []
    moved: set[int] = set()

    def observe(mapping: backend.Mapping, inputs: Nested) -> list[Tensor]:
        trace = backend.current_trace()
        calls, scope = normalization_calls(model, mapping, inputs, training=True)
        # Frozen, or called with training=False, a layer assigns nothing.
        given = keras.StatelessScope(state_mapping=mapping)
        moved.update(
            id(layer)
            for layer in norms
            if layer.built and _is_assigned(layer.moving_mean, given, scope)
        )
        looped = {id(call.layer) for call in calls if call.trace != trace}
        seen.extend(call.layer for call in calls if id(call.layer) not in looped)
        return []

    compiled(observe, model)(inputs)
    in_order = list(dict.fromkeys(layer for layer in seen if id(layer) in moved))
    _refuse_unseen([x.name for x in norms if id(x) in moved and x not in in_order])
    if not moved:
        raise ValueError(
            "The model has no batch normalization layer that training would update. "
            f"Received: model={model.name!r} with {len(norms)} BatchNormalization layers"
        )
    return in_order


def _is_assigned(
    variable: keras.Variable, before: keras.StatelessScope, after: keras.StatelessScope
) -> bool:
    return after.get_current_value(variable) is not before.get_current_value(variable)


def normalization_calls(
    model: keras.Model,
    mapping: backend.Mapping,
    inputs: Nested,
    *,
    training: bool,
    number: Tensor | int = 0,
) -> tuple[list[LayerCall], keras.StatelessScope]:
    """Run `model` and return the calls of its normalization layers. The model does not change.

    Layers with seeds of their own draw different values for each `number`.
    """
    calls: list[LayerCall] = []

    def observe(call: LayerCall) -> None:
        if isinstance(call.layer, keras.layers.BatchNormalization):
            calls.append(call)

    state = [*mapping, *seeds(model, number)]
    with observe_calls(observe), keras.StatelessScope(state_mapping=state) as scope:
        model(inputs, **training_argument(model, training))
    return calls, scope


def weights_of(call: LayerCall, x: Tensor) -> Tensor | None:
    """Return the mask of a normalization layer's call, as the layer reads it, or None.

    Args:
        call: the call.
        x: its inputs, in any dtype.
    """
    # Keras's layer reads every mask as it reads those that tensors carry.
    keras_own = type(call.layer).call is Normalization.call
    leading = keras_own or is_carried(call.mask, call.inputs)
    return weights_for(call.mask, x, call.layer.axis, leading=leading)


def _refuse_unseen(names: list[str]) -> None:
    if names:
        raise ValueError(
            "Layers inside a loop (in an RNN's cell or in TimeDistributed) cannot be measured. "
            f"Freeze them to leave them out. Received: {sorted(names)}"
        )


def compiled(function: Callable[..., Nested], model: keras.Model) -> Callable[[Nested], Nested]:
    """Compile `function`, of the model's variables and a batch, unless the model runs eagerly."""
    eagerly = runs_eagerly(model)
    return backend.compile_for_batches(function, model.variables, eagerly=eagerly)


def assign(layer: Normalization, measured: InferenceStatistics) -> None:
    """Assign the measured statistics in the channels that had values."""
    if not (measured.variance_count > 0).any():
        raise ValueError(
            "Every layer needs more than one value per channel (in one batch, with "
            'estimator="paper"). Nothing was changed. '
            f"Received: {np.max(measured.mean_count):g} in all for layer {layer.name!r}"
        )
    stddev = np.sqrt(measured.variance + layer.epsilon)
    settled = np.ones_like(stddev)
    new = {
        "moving_mean": (measured.mean, measured.mean_count),
        "moving_variance": (measured.variance, measured.variance_count),
        "moving_stddev": (stddev, measured.variance_count),
        "mean_count": (measured.mean_count, measured.mean_count),
        "variance_count": (measured.variance_count, measured.variance_count),
        "mean_debias": (settled, measured.mean_count),
        "variance_debias": (settled, measured.variance_count),
    }
    for variable in layer.non_trainable_variables:
        if variable.name in new:
            old = backend.numpy_of(variable)
            variable.assign(_checked(layer, old, *new[variable.name]))


def _checked(
    layer: Normalization, old: np.ndarray, new: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """Return `new` where there were values, else `old`, in the dtype of the variable."""
    with np.errstate(over="ignore"):
        value = np.where(count > 0, new, old).astype(old.dtype)
    if not np.isfinite(value).all():
        raise ValueError(
            "The inputs of every layer, and their variance, must be finite. Nothing was changed. "
            f"Received: inf or NaN in the inputs of layer {layer.name!r}, or in their variance"
        )
    return value
