"""Measure the statistics for inference again over a data set (Ioffe & Szegedy, Algorithm 2)."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
from keras import ops

from kbn import backend
from kbn.common import checks
from kbn.common.types import Data, Nested, Tensor
from kbn.introspection.batches import Batches
from kbn.introspection.layer_calls import LayerCall
from kbn.ops.masks import where_kept
from kbn.ops.moments import Part, local_part
from kbn.tools.normalization_layers import (
    Normalization,
    assign,
    compiled,
    moved_layers,
    normalization_calls,
    weights_of,
)
from kbn.tools.population import BatchAverage, Population

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

    Use it if inference is worse than training: after training with small batches or a slow
    momentum, after averaging weights (SWA, EMA), or before deployment. It measures all batch
    normalization layers, kbn's and Keras's, that training would update. It skips frozen layers, and
    layers that the model calls with `training=False`. Weights, seeds, optimizer and modes do not
    change. If anything fails, the old statistics are restored.

    **`estimator="population"`** takes the mean and variance of all values that reach a layer in
    inference, merged in float64 (Chan, Golub & LeVeque 1983). The result does not depend on how the
    data is split into batches. Layers are measured one after the other, in the order in which the
    model calls them. Each receives its inputs from layers that already have their new statistics,
    as it will in inference. This takes one pass over the data per layer, up to that layer.
    The variance is that of a sample (over N − 1) if the layer has `unbiased_variance=True`, and
    over N otherwise.

    **`estimator="paper"`** is Algorithm 2 of Ioffe & Szegedy (steps 8 to 11), which fvcore and
    torch.optim.swa_utils also use. It takes one pass, in which every layer normalizes with its
    batch, as in training (with dropout). E[x] is the mean over batches of μ_B, and Var[x] that of
    m/(m−1)·σ_B², each batch weighted by m. So the statistics depend on the batches. In inference,
    a layer after another normalization gets slightly different inputs than those measured. Layers
    without a seed of their own use Keras's global seed. They draw the same numbers for every batch.

    If the model calls a layer several times, its calls are measured together. If such a layer's
    inputs depend on its own outputs, they are computed with its old statistics. A model that runs
    eagerly is measured eagerly.

    Args:
        model: a built model of any kind.
        data: array, (x, y), dict of arrays, `tf.data.Dataset` or `keras.utils.PyDataset`. If one
            pass is enough, also an iterator of batches. Targets and sample weights are not used.
        steps: number of batches per pass; None for all.
        estimator: "population" or "paper".
        batch_size: samples per batch of arrays; None means 32.
        verbose: whether to show a progress bar.

    Raises:
        ValueError: if the model is not built or has nothing to measure, if the data ends before
            `steps` or has no more than one value for a layer, or if an activation is inf or NaN.
        TypeError: if an iterator would have to be read more than once.

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
    layers = moved_layers(model, batches.first())
    variables = [v for layer in layers for v in layer.non_trainable_variables]
    saved = [(variable, backend.numpy_of(variable)) for variable in variables]
    measure = _measure_population if estimator == "population" else _measure_paper
    try:
        measure(model, layers, batches, verbose)
    except BaseException:
        for variable, value in saved:
            variable.assign(value)
        raise


def _measure_population(
    model: keras.Model,
    layers: Sequence[Normalization],
    batches: Batches,
    verbose: bool,
) -> None:
    if len(layers) > 1 and batches.is_spent_by_reading:
        raise TypeError(
            'estimator="population" reads the data once per layer, and an iterator can be read '
            'only once. Pass a tf.data.Dataset, a PyDataset or arrays, or estimator="paper". '
            f"Received: an iterator, for {len(layers)} layers"
        )
    with _progress(len(layers), batches, verbose) as progress:
        for layer in layers:
            population = Population()
            for _, part in _parts(model, [layer], batches, training=False, progress=progress):
                population.add(part)
            assign(layer, population.statistics(getattr(layer, "unbiased_variance", False)))


def _measure_paper(
    model: keras.Model,
    layers: Sequence[Normalization],
    batches: Batches,
    verbose: bool,
) -> None:
    averages = [BatchAverage() for _ in layers]
    with _progress(1, batches, verbose) as progress:
        for index, part in _parts(model, layers, batches, training=True, progress=progress):
            averages[index].add(part)
    for layer, average in zip(layers, averages, strict=True):
        assign(layer, average.statistics())


def _parts(
    model: keras.Model,
    layers: Sequence[Normalization],
    batches: Batches,
    *,
    training: bool,
    progress: Progress,
) -> Iterator[tuple[int, Part]]:
    """Yield (index in `layers`, moments of the layer's inputs) for every call."""
    indices = {id(layer): index for index, layer in enumerate(layers)}
    order: list[int] = []

    def measure(mapping: backend.Mapping, numbered: Nested) -> list[Tensor]:
        inputs, number = numbered
        calls, _ = normalization_calls(model, mapping, inputs, training=training, number=number)
        calls = [call for call in calls if id(call.layer) in indices]
        order[:] = [indices[id(call.layer)] for call in calls]
        with backend.in_double():
            return [_rows(call) for call in calls]

    run = compiled(measure, model)
    for number, inputs in enumerate(batches):
        measured = run((inputs, np.int64(number)))
        yield from ((index, Part(*rows)) for index, rows in zip(order, measured, strict=True))
        progress()


def _rows(call: LayerCall) -> Tensor:
    """Reduce the inputs of a call to the (5, C) rows of a `Part`, in float64."""
    x = ops.cast(call.inputs, "float64")
    axis = call.layer.axis % len(x.shape)
    weights = weights_of(call, x)
    x = where_kept(weights, x, ops.zeros_like(x))
    _, part = local_part(x, tuple(i for i in range(len(x.shape)) if i != axis), weights)
    shape = ops.shape(part.pivot)
    return ops.stack([ops.reshape(ops.broadcast_to(row, shape), (-1,)) for row in part])


@contextlib.contextmanager
def _progress(passes: int, batches: Batches, verbose: bool) -> Iterator[Progress]:
    """Show a bar over all passes. Its length is unknown if the length of the data is unknown."""
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
