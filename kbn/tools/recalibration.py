"""Statistics for inference measured anew over a data set: Ioffe & Szegedy's Algorithm 2."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
from keras import ops

from kbn import backend
from kbn.common import checks
from kbn.common.types import Data, Nested, Tensor
from kbn.introspection.batches import Batches
from kbn.introspection.layer_calls import (
    LayerCall,
    observe_calls,
    runs_eagerly,
    seeds,
    training_argument,
)
from kbn.ops.masks import weights_for, where_kept
from kbn.ops.moments import Part, local_part
from kbn.tools.population import BatchAverage, InferenceStatistics, Population

Progress = Callable[[], None]
ESTIMATORS = ("population", "paper")


def recalibrate(
    model: keras.Model,
    data: Data,
    *,
    steps: int | None = None,
    estimator: str = "population",
    batch_size: int | None = None,
    verbose: bool = True,
) -> None:
    """Replace the moving statistics of `model` by statistics measured over `data`.

    Use it where inference is worse than training: after training with small batches or a slow
    momentum, after averaging weights (SWA, EMA), before deployment. It measures all batch
    normalization layers, kbn's and Keras's, that training would move; a frozen layer, or one
    that the model calls with `training=False`, is left alone. Nothing else changes: weights,
    seeds, optimizer and modes stay, and if anything fails the old statistics come back.

    **`estimator="population"`** takes the mean and variance of all values that reach a layer in
    inference, merged in float64 (Chan, Golub & LeVeque 1983), so that the result is the same
    however the data is cut into batches. Layers are measured one after the other, in the order in
    which the model calls them, each behind layers that already have their new statistics: what
    is measured is what inference will see. That takes one pass over the data per layer, each
    as far as that layer. The variance is that of a sample (over N − 1) where the layer has
    `unbiased_variance=True`, else over N.

    **`estimator="paper"`** is Algorithm 2 (steps 8 to 11), as fvcore and torch.optim.swa_utils
    do it: one pass in which every layer normalizes with its batch, as in training (dropout on).
    E[x] is the mean over batches of μ_B, Var[x] that of m/(m−1)·σ_B², each batch weighted by m.
    The statistics then depend on the batches, and a layer behind another one sees in inference
    slightly other inputs than those measured. Layers without a seed of their own (that draw from
    Keras's global seed) draw the same for every batch.

    A layer that the model calls several times pools all its calls, and one that feeds itself is
    measured behind its old statistics. A model that runs eagerly is measured eagerly.

    Args:
        model: a built model of any kind.
        data: array, (x, y), dict of arrays, `tf.data.Dataset`, `keras.utils.PyDataset`, or an
            iterator of batches where one pass is enough. Targets and sample weights are not used.
        steps: how many batches of a pass to use; None for all.
        estimator: "population" or "paper".
        batch_size: samples per batch of arrays; 32 if None.
        verbose: whether to show a progress bar.

    Raises:
        ValueError: where the model has nothing to measure or is not built, where the data ends
            before `steps` or shows a layer no more than one value, or where an activation is inf or
            NaN.
        TypeError: where an iterator would be needed more than once.

    Example:
        >>> import keras, numpy as np, kbn
        >>> model = keras.Sequential([keras.layers.Input((2,)), kbn.BatchNormalization()])
        >>> x = np.random.default_rng(0).normal(3.0, 2.0, size=(1000, 2)).astype("float32")
        >>> kbn.recalibrate(model, x, verbose=False)
        >>> bool(np.allclose(model.layers[0].moving_variance, x.var(0, ddof=1), rtol=1e-5))
        True
    """
    checks.one_of("estimator", estimator, ESTIMATORS)
    checks.boolean("verbose", verbose)
    batches = Batches(data, steps, batch_size)
    layers = _moved_layers(model, batches.first())
    saved = [(v, v.numpy()) for layer in layers for v in layer.non_trainable_variables]
    measure = _measure_population if estimator == "population" else _measure_paper
    try:
        measure(model, layers, batches, verbose)
    except BaseException:
        for variable, value in saved:
            variable.assign(value)
        raise


def _moved_layers(model: keras.Model, inputs: Nested) -> list[keras.layers.BatchNormalization]:
    """Return the normalization layers that training would move, in the order of their calls."""
    if not model.built:
        raise ValueError(
            f"The model is not built: train it or call it first. Received: model={model.name!r}"
        )
    norms = [x for x in model._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
    seen: list[keras.layers.BatchNormalization] = []
    moved: set[int] = set()

    def observe(mapping: backend.Mapping, inputs: Nested) -> list[Tensor]:
        trace = backend.current_trace()
        calls, scope = _calls(model, mapping, inputs, training=True)
        # Frozen, or called with training=False, a layer assigns nothing.
        moved.update(
            id(layer)
            for layer in norms
            if layer.built and scope.get_current_value(layer.moving_mean) is not None
        )
        looped = {id(call.layer) for call in calls if call.trace is not trace}
        seen.extend(call.layer for call in calls if id(call.layer) not in looped)
        return []

    _compiled(observe, model)(inputs)
    in_order = list(dict.fromkeys(layer for layer in seen if id(layer) in moved))
    _refuse_unseen([x.name for x in norms if id(x) in moved and x not in in_order])
    if not moved:
        raise ValueError(
            "The model has no batch normalization layer that training would move. "
            f"Received: model={model.name!r}, of whose layers {len(norms)} are BatchNormalization"
        )
    return in_order


def _calls(
    model: keras.Model,
    mapping: backend.Mapping,
    inputs: Nested,
    *,
    training: bool,
    number: Tensor | int = 0,
) -> tuple[list[LayerCall], keras.StatelessScope]:
    """Run `model` and return the calls of its normalization layers; it stays as it is.

    Layers with seeds of their own draw anew for every `number`.
    """
    calls: list[LayerCall] = []

    def observe(call: LayerCall) -> None:
        if isinstance(call.layer, keras.layers.BatchNormalization):
            calls.append(call)

    state = [*mapping, *seeds(model, number)]
    with observe_calls(observe), keras.StatelessScope(state_mapping=state) as scope:
        model(inputs, **training_argument(model, training))
    return calls, scope


def _refuse_unseen(names: list[str]) -> None:
    if names:
        raise ValueError(
            "Layers that are called inside a loop (an RNN's cell, what TimeDistributed wraps) "
            f"cannot be measured; freeze them to leave them out. Received: {sorted(names)}"
        )


def _measure_population(
    model: keras.Model,
    layers: Sequence[keras.layers.BatchNormalization],
    batches: Batches,
    verbose: bool,
) -> None:
    if len(layers) > 1 and batches.is_spent_by_reading:
        raise TypeError(
            f'estimator="population" reads the data once per layer, here {len(layers)} times, and '
            "an iterator can be read once: give a tf.data.Dataset, a PyDataset or arrays, or "
            'choose estimator="paper".'
        )
    with _progress(len(layers), batches, verbose) as progress:
        for layer in layers:
            population = Population()
            for _, part in _parts(model, [layer], batches, training=False, progress=progress):
                population.add(part)
            _assign(layer, population.statistics(getattr(layer, "unbiased_variance", False)))


def _measure_paper(
    model: keras.Model,
    layers: Sequence[keras.layers.BatchNormalization],
    batches: Batches,
    verbose: bool,
) -> None:
    averages = [BatchAverage() for _ in layers]
    with _progress(1, batches, verbose) as progress:
        for index, part in _parts(model, layers, batches, training=True, progress=progress):
            averages[index].add(part)
    for layer, average in zip(layers, averages, strict=True):
        _assign(layer, average.statistics())


def _parts(
    model: keras.Model,
    layers: Sequence[keras.layers.BatchNormalization],
    batches: Batches,
    *,
    training: bool,
    progress: Progress,
) -> Iterator[tuple[int, Part]]:
    """Yield (index in `layers`, moments of what the layer was called on) for every call."""
    indices = {id(layer): index for index, layer in enumerate(layers)}
    order: list[int] = []

    def measure(mapping: backend.Mapping, numbered: Nested) -> list[Tensor]:
        inputs, number = numbered
        calls, _ = _calls(model, mapping, inputs, training=training, number=number)
        calls = [call for call in calls if id(call.layer) in indices]
        order[:] = [indices[id(call.layer)] for call in calls]
        return [_rows(call) for call in calls]

    run = _compiled(measure, model)
    for number, inputs in enumerate(batches):
        measured = run((inputs, np.int64(number)))
        yield from ((index, Part(*rows)) for index, rows in zip(order, measured, strict=True))
        progress()


def _compiled(function: Callable[..., Nested], model: keras.Model) -> Callable[[Nested], Nested]:
    eagerly = runs_eagerly(model)
    return backend.compile_for_batches(function, model.variables, eagerly=eagerly)


def _rows(call: LayerCall) -> Tensor:
    """Reduce what a layer was called on to the (5, C) rows of a `Part`, in float64."""
    x = ops.cast(call.inputs, "float64")
    axis = call.layer.axis % len(x.shape)
    weights = weights_for(call.mask, x, axis)
    x = where_kept(weights, x, ops.zeros_like(x))
    _, part = local_part(x, tuple(i for i in range(len(x.shape)) if i != axis), weights)
    shape = ops.shape(part.pivot)
    return ops.stack([ops.reshape(ops.broadcast_to(row, shape), (-1,)) for row in part])


def _assign(layer: keras.layers.BatchNormalization, measured: InferenceStatistics) -> None:
    """Give `layer` its new statistics in the channels where something was measured."""
    if not (measured.variance_count > 0).any():
        raise ValueError(
            "The data must show every layer more than one value per channel (in a batch, with "
            f'estimator="paper"); nothing was changed. Received: layer {layer.name!r} saw at most '
            f"{np.max(measured.mean_count):g}"
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
            variable.assign(_checked(layer, variable.numpy(), *new[variable.name]))


def _checked(
    layer: keras.layers.BatchNormalization, old: np.ndarray, new: np.ndarray, count: np.ndarray
) -> np.ndarray:
    """Return `new` where there were values, else `old`, in the dtype of the variable."""
    with np.errstate(over="ignore"):
        value = np.where(count > 0, new, old).astype(old.dtype)
    if not np.isfinite(value).all():
        raise ValueError(
            "The inputs of a layer must be finite, and their variance too, to be measured; nothing "
            f"was changed. Received: inf or NaN from the inputs of layer {layer.name!r}"
        )
    return value


@contextlib.contextmanager
def _progress(passes: int, batches: Batches, verbose: bool) -> Iterator[Progress]:
    """Show a bar over all passes, of unknown length where that of the data is unknown."""
    if not verbose:
        yield lambda: None
        return
    done, target = 0, None if batches.steps is None else passes * batches.steps
    bar = keras.utils.Progbar(target, unit_name="batch")

    def advance() -> None:
        nonlocal done
        done += 1
        bar.update(done)

    yield advance
    if target is None:
        bar.update(done, finalize=True)
