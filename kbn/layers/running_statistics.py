"""The layer's moving statistics, and the count of skipped updates."""

from typing import Any

import keras
from keras import ops

from kbn import backend
from kbn.common.types import Size, Tensor
from kbn.ops import moving_average
from kbn.ops.moments import Moments
from kbn.ops.moving_average import Contribution, Update
from kbn.ops.precision import widest


class Average:
    """A variable that averages over batches by one of the rules of `moving_average`.

    Args:
        variable: (C,) variable, the average.
        momentum: weight of the old value, or None for the average weighted by count.
        seen: (C,) variable that the rule needs in addition: the count of values (momentum None) or
            1 − momentumᵗ (zero debias); None for the plain exponential average.
    """

    def __init__(
        self, variable: keras.Variable, momentum: float | None, seen: keras.Variable | None = None
    ) -> None:
        self.variable, self.momentum, self.seen = variable, momentum, seen

    def follow(self, value: Tensor, updatable: Tensor) -> None:
        """Update with `value`, (C,), in updatable channels. For the plain exponential average."""
        old = _read(self.variable)
        rate = 1.0 - (self.momentum or 0.0)
        new = moving_average.exponential(old, Update(value, rate, None))
        self.variable.assign(ops.where(updatable, new, old))

    def move(self, update: Update) -> None:
        """Apply the update."""
        old = self.variable.value
        if self.seen is None:
            self.variable.assign(moving_average.exponential(old, update))
            return
        rule = moving_average.cumulative if self.momentum is None else moving_average.debiased
        new, seen = rule(old, update, self.seen.value)
        self.variable.assign(new)
        self.seen.assign(seen)


Observation = tuple[Average, Tensor, Tensor]
"""An average, the batch's value for it, and the channels in which this value may be used."""


class RunningStatistics:
    """The statistics for inference, and the number of skipped updates.

    Args:
        mean: the average of batch means.
        variance: the average of batch variances.
        skipped: (C,) integer variable, the number of batches that could not update the variance.
        unbiased: whether `variance` averages m/(m−1)·σ_B² or σ_B².
        synchronized: whether all replicas have the same moments, so that none need merging.
    """

    def __init__(
        self,
        mean: Average,
        variance: Average,
        *,
        skipped: keras.Variable,
        unbiased: bool,
        synchronized: bool,
    ) -> None:
        self._mean, self._variance = mean, variance
        self._unbiased, self._synchronized = unbiased, synchronized
        self._skipped = skipped

    def move(self, batch: Moments) -> None:
        """Update the statistics with the batch, or with its ghost batches one after the other."""
        observed = [_fitted(*observation) for observation in self._observed(batch)]
        alone = self._synchronized or not backend.several_replicas()
        if alone and self._is_plain(batch):
            self._count_skips(observed[1][2])
            for average, value, updatable in observed:
                average.follow(value, updatable)
            return
        updates = _updates(observed, batch.count)
        skipped = _count(ops.logical_not(observed[1][2]))
        if not alone:
            updates, skipped = _agreed_over_replicas(updates, skipped)
        self._skipped.assign_add(ops.cast(skipped, self._skipped.dtype))
        self._take([average for average, _, _ in observed], updates)

    def _is_plain(self, batch: Moments) -> bool:
        """Return whether this is one batch for exponential averages, which takes fewer ops."""
        return len(batch.mean.shape) == 1 and self._mean.seen is None

    def _count_skips(self, updatable: Tensor) -> None:
        """Count one skipped update in each channel that is not updatable."""
        old = _read(self._skipped)
        self._skipped.assign(ops.where(updatable, old, old + 1))

    def _observed(self, batch: Moments) -> list[Observation]:
        """Return one observation per average, the mean's first, then the variance's."""
        kept = self._kept_variance(batch)
        for_mean, for_variance = moving_average.updatable(batch, kept)
        return [(self._mean, batch.mean, for_mean), (self._variance, kept, for_variance)]

    def _kept_variance(self, batch: Moments) -> Tensor:
        return moving_average.unbiased_variance(batch) if self._unbiased else batch.variance

    def _take(self, averages: list[Average], updates: list[Update]) -> None:
        for average, update in zip(averages, updates, strict=True):
            average.move(update)


class RenormRunningStatistics(RunningStatistics):
    """The statistics of batch renormalization, in Keras's variables (Ioffe 2017).

    `renorm_mean` and `renorm_stddev` (μ and σ in the paper) average μ_B and √(σ_B² + ε) with
    `renorm_momentum`. Training normalizes with them, so they use the biased variance, as the
    normalization by a batch does. For inference, `moving_mean` and `moving_stddev` average μ_B and
    √(v + ε) with `momentum`, where v is the variance with Bessel's correction if `unbiased`.
    `moving_variance` is moving_stddev² − ε.

    Args:
        mean: the average of batch means.
        stddev: the average of batch standard deviations.
        renorm_mean: the average μ.
        renorm_stddev: the average σ.
        variance: (C,) variable, kept equal to stddev² − ε.
        epsilon: ε.
        clock: variable, the number of batches that updated any channel; None if it is not needed.
        **options: as for `RunningStatistics`.
    """

    def __init__(
        self,
        mean: Average,
        stddev: Average,
        renorm_mean: Average,
        renorm_stddev: Average,
        *,
        variance: keras.Variable,
        epsilon: float,
        clock: keras.Variable | None,
        **options: Any,
    ) -> None:
        super().__init__(mean, stddev, **options)
        self._renorm_mean, self._renorm_stddev = renorm_mean, renorm_stddev
        self._variance_variable = variance
        self._epsilon, self._clock = epsilon, clock

    def _is_plain(self, batch: Moments) -> bool:
        return False  # `moving_variance` must be updated too

    def _observed(self, batch: Moments) -> list[Observation]:
        kept = self._kept_variance(batch)
        for_mean, for_variance = moving_average.updatable(batch, kept)
        kept = ops.sqrt(kept + self._epsilon)
        biased = ops.sqrt(batch.variance + self._epsilon)
        return [
            (self._mean, batch.mean, for_mean),
            (self._variance, kept, for_variance),
            (self._renorm_mean, batch.mean, for_mean),
            (self._renorm_stddev, biased, for_variance),
        ]

    def _take(self, averages: list[Average], updates: list[Update]) -> None:
        super()._take(averages, updates)
        if self._clock is not None:
            taken = ops.any(updates[0].count > 0)
            self._clock.assign(self._clock.value + ops.cast(taken, self._clock.dtype))
        follows = ops.relu(ops.square(averages[1].variable.value) - self._epsilon)
        old = self._variance_variable.value
        self._variance_variable.assign(ops.where(updates[1].count > 0, follows, old))


def _read(variable: keras.Variable) -> Tensor:
    """Return the value as a tensor. Operations on `variable.value` would each read it anew."""
    return ops.stop_gradient(variable.value)


def _fitted(average: Average, value: Tensor, updatable: Tensor) -> Observation:
    """Return the observation in the dtype of the average, without channels that overflow."""
    if value.dtype == average.variable.value.dtype:
        return average, value, updatable
    value = ops.cast(value, average.variable.dtype)
    return average, value, ops.logical_and(updatable, ops.isfinite(value))


def _updates(observed: list[Observation], count: Size) -> list[Update]:
    """Return the update of each average. Updates of the same kind share the work."""
    shared: dict[tuple[int, float | None, str], Contribution] = {}
    updates = []
    for average, value, flags in observed:
        key = id(flags), average.momentum, average.variable.dtype
        if key not in shared:
            shared[key] = moving_average.contribution(flags, count, average.momentum, key[2])
        updates.append(moving_average.update(value, shared[key]))
    return updates


def _count(flags: Tensor) -> Tensor:
    """Return, as (C,) integers, how many batches have the flag; `flags` is (C,) or (G, C)."""
    flags = ops.cast(flags, backend.COUNTER)
    return flags if len(flags.shape) == 1 else ops.sum(flags, 0)


def _agreed_over_replicas(updates: list[Update], skipped: Tensor) -> tuple[list[Update], Tensor]:
    """Return the updates and the skips merged over all replicas, by one collective."""
    dtype = widest(update.value.dtype for update in updates)
    rows = [ops.cast(row, dtype) for row in [skipped, *(row for each in updates for row in each)]]
    rows = ops.stop_gradient(ops.stack(rows))
    skips, *gathered = ops.unstack(backend.gather(rows), axis=1)
    triples = [Update(*gathered[i : i + 3]) for i in range(0, len(gathered), 3)]
    return [moving_average.agreed(triple) for triple in triples], ops.sum(skips, 0)
