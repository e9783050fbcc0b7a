"""What `MovingStatistics` extracts: batch statistics against a layer's moving statistics."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from kbn import backend
from kbn.callbacks.probing.extraction import Extract, Extraction
from kbn.common.types import Nested, Tensor
from kbn.introspection.layer_calls import LayerCall
from kbn.ops import inference_gap
from kbn.ops.inference_gap import MeanAndVariance, Momentum
from kbn.ops.masks import where_kept
from kbn.ops.merging_moments import MORE_THAN_ONE, bessels_correction
from kbn.ops.moments import Moments, center
from kbn.ops.precision import widened
from kbn.tools.normalization_layers import weights_of


class Gap(NamedTuple):
    """The measures of one call of a normalization layer.

    Attributes:
        layer: the layer.
        measured: values by measure name, as in the catalogue's run `moving_statistics`.
        number: number of values per channel in the batch.
    """

    layer: keras.layers.BatchNormalization
    measured: Mapping[str, float]
    number: float


def extractor() -> Extract[Gap]:
    """Return an extraction of the batch's moments, and of the gap between both modes' outputs.

    Layers whose inputs have the same shape share the graph of the moments.
    """

    @cache
    def moments_over(axes: tuple[int, ...]) -> Callable[[Tensor], Nested]:
        return backend.shared(lambda x: _moments(center(x, axes).moments))

    def extract(
        mapping: backend.Mapping, _: str, call: LayerCall
    ) -> list[tuple[str, Extraction[Gap]]]:
        layer, x = call.layer, call.inputs
        if not ops.is_tensor(x):
            return []
        axes = tuple(i for i in range(len(x.shape)) if i != layer.axis % len(x.shape))
        wide = widened(x)
        weights = weights_of(call, wide)
        batch = (
            moments_over(axes)(wide)
            if weights is None
            else _moments(center(wide, axes, weights).moments)
        )
        tensors = {**batch, "output_gap": _output_gap(mapping, call, wide.dtype, weights)}
        return [("probe", Extraction(tensors, partial(_gaps, layer)))]

    return extract


def _moments(of: Moments) -> dict[str, Tensor]:
    count = ops.max(ops.convert_to_tensor(of.count, of.mean.dtype))
    return {"mean": of.mean, "variance": of.variance, "count": count}


def _output_gap(
    mapping: backend.Mapping, call: LayerCall, dtype: str, weights: Tensor | None
) -> Tensor:
    """Return the root mean square of the difference between the outputs of both modes."""
    # A separate scope, because this call must not see the update that training mode just made.
    with keras.StatelessScope(state_mapping=mapping):
        mask = {} if call.mask is None else {"mask": call.mask}
        inference = call.layer(call.inputs, training=False, **mask)
    apart = ops.cast(call.outputs, dtype) - ops.cast(inference, dtype)
    return ops.sqrt(_mean_of_kept(ops.square(apart), weights))


def _mean_of_kept(x: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return ops.mean(x)
    nothing = ops.zeros_like(x)
    number = ops.sum(where_kept(weights, ops.ones_like(x), nothing))
    return ops.sum(where_kept(weights, x, nothing)) / ops.maximum(number, 1)


def _gaps(
    layer: keras.layers.BatchNormalization, found: Sequence[Mapping[str, np.ndarray]]
) -> list[Gap]:
    return [_gap(layer, one) for one in found]


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # a diverged network
def _gap(layer: keras.layers.BatchNormalization, found: Mapping[str, np.ndarray]) -> Gap:
    batch = MeanAndVariance(_double(found["mean"]), _double(found["variance"]) + layer.epsilon)
    moving = MeanAndVariance(
        _double(layer.moving_mean), _double(layer.moving_variance) + layer.epsilon
    )
    means = inference_gap.mean_gap(batch, moving)
    ratios = inference_gap.variance_log_ratio(batch, moving)
    measured = {
        "mean_gap": float(means.mean()),
        "mean_gap_worst": float(means.max()),
        "variance_log_ratio": float(ratios.mean()),
        "variance_log_ratio_worst": float(ratios[np.argmax(np.abs(ratios))]),
        "output_gap": float(found["output_gap"]),
        "steps_to_settle": inference_gap.updates_to_settle(
            _kept(layer, batch, float(found["count"])),
            moving,
            momentum_of(layer, float(found["count"])),
        ),
    }
    for name in ("gamma", "beta"):
        weight = getattr(layer, name, None)
        if weight is not None:
            values = _double(weight)
            measured |= {f"{name}_mean": float(values.mean()), f"{name}_std": float(values.std())}
    return Gap(layer, measured, float(found["count"]))


def _kept(
    layer: keras.layers.BatchNormalization, batch: MeanAndVariance, count: float
) -> MeanAndVariance:
    """Return the limit of the moving statistics if all batches are like this one."""
    if not getattr(layer, "unbiased_variance", False) or count <= MORE_THAN_ONE:
        return batch
    unbiased = (batch.variance - layer.epsilon) * bessels_correction(count, np)
    variance = unbiased + layer.epsilon
    return batch._replace(variance=variance)


def momentum_of(layer: keras.layers.BatchNormalization, batch: float) -> Momentum:
    """Return the momentum of the layer's moving statistics, if an update has `batch` values."""
    if layer.momentum is None:
        return Momentum(None, _double(layer.mean_count), max(batch, 1.0))
    if getattr(layer, "zero_debias", False):
        return Momentum(layer.momentum, _double(layer.mean_debias))
    return Momentum(layer.momentum)


def skipped_updates(layer: keras.layers.BatchNormalization) -> np.ndarray | None:
    """Return the number of skipped updates per channel (C,); None for Keras's layer."""
    return getattr(layer, "skipped_updates", None)


def _double(values: Tensor) -> np.ndarray:
    return backend.numpy_of(values).astype(np.float64)
