"""The layer's memory of the batches: variables that move, and the count of refused updates."""

from typing import Any

import keras
from keras import ops

from kbn.backend.tensorflow import replicas
from kbn.ops import moving_average
from kbn.ops.moments import Moments
from kbn.ops.moving_average import Contribution, Update

Tensor = Any


class Average:
    """A variable that follows the batches by one of the rules of `moving_average`.

    Args:
        variable: (C,) variable, the average.
        momentum: weight of the old value, or None for the average by count.
        seen: (C,) variable for what the rule must remember: the count of values (momentum None) or
            1 − momentumᵗ (zero debias); None for the plain exponential average.
    """

    def __init__(self, variable: Any, momentum: float | None, seen: Any = None) -> None:
        self.variable, self.momentum, self.seen = variable, momentum, seen

    def follow(self, value: Tensor, tells: Tensor) -> None:
        """Move by (C,) `value` where it tells something; for the plain exponential average."""
        old = self.variable.value
        rate = 1.0 - (self.momentum or 0.0)
        new = moving_average.exponential(old, Update(value, rate, None))
        self.variable.assign(ops.where(tells, new, old))

    def move(self, step: Update) -> None:
        """Take the step."""
        old = self.variable.value
        if self.seen is None:
            self.variable.assign(moving_average.exponential(old, step))
            return
        rule = moving_average.cumulative if self.momentum is None else moving_average.debiased
        new, seen = rule(old, step, self.seen.value)
        self.variable.assign(new)
        self.seen.assign(seen)


Observation = tuple[Average, Tensor, Tensor]  # what it is shown, and where it may use it


class RunningStatistics:
    """The statistics that inference normalizes with, and how many batches they refused.

    Args:
        mean: the average of batch means.
        variance: the average of batch variances.
        refused: (C,) int64 variable, the number of batches that told no variance.
        unbiased: whether the latter averages m/(m−1)·σ_B² or σ_B².
        synchronized: whether all replicas see the same moments, so that nothing is to be agreed.
    """

    def __init__(
        self, mean: Average, variance: Average, *, refused: Any, unbiased: bool, synchronized: bool
    ) -> None:
        self._mean, self._variance = mean, variance
        self._unbiased, self._synchronized = unbiased, synchronized
        self._refused = refused

    def move(self, batch: Moments) -> None:
        """Let the batch, or the virtual batches one after the other, move the statistics."""
        observed = [_fitted(*observation) for observation in self._observed(batch)]
        refused = _count(ops.logical_not(observed[1][2]))
        alone = self._synchronized or not replicas.several()
        if alone and self._is_plain(batch):
            self._refused.assign_add(refused)
            for average, value, tells in observed:
                average.follow(value, tells)
            return
        steps = _steps(observed, batch.count)
        if not alone:
            steps, refused = _agreed_over_replicas(steps, refused)
        self._refused.assign_add(ops.cast(refused, "int64"))
        self._take([average for average, _, _ in observed], steps)

    def _is_plain(self, batch: Moments) -> bool:
        """Say whether it is one batch for exponential averages: fewer ops do the same."""
        return len(batch.mean.shape) == 1 and self._mean.seen is None

    def _observed(self, batch: Moments) -> list[Observation]:
        """Return what each average is shown, first that of the mean, then that of the variance."""
        kept = self._kept_variance(batch)
        tells_mean, tells_variance = moving_average.updatable(batch, kept)
        return [(self._mean, batch.mean, tells_mean), (self._variance, kept, tells_variance)]

    def _kept_variance(self, batch: Moments) -> Tensor:
        return moving_average.unbiased_variance(batch) if self._unbiased else batch.variance

    def _take(self, averages: list[Average], steps: list[Update]) -> None:
        for average, step in zip(averages, steps, strict=True):
            average.move(step)


class RenormRunningStatistics(RunningStatistics):
    """The statistics of batch renormalization, in Keras's variables (Ioffe 2017).

    `renorm_mean` and `renorm_stddev`, μ and σ of the paper, average μ_B and √(σ_B² + ε)
    with `renorm_momentum`; training normalizes with them, so they are biased as the batch's own
    normalization is. For inference, `moving_mean` and `moving_stddev` average with `momentum`,
    the latter over √(kept variance + ε), and `moving_variance` is moving_stddev² − ε.

    Args:
        mean: the average of batch means.
        stddev: the average of batch standard deviations.
        renorm_mean: the average μ.
        renorm_stddev: the average σ.
        variance: (C,) variable that follows `stddev`.
        epsilon: ε.
        clock: variable, the number of batches of which anything was taken; None if nobody asks.
        **options: as for `RunningStatistics`.
    """

    def __init__(
        self,
        mean: Average,
        stddev: Average,
        renorm_mean: Average,
        renorm_stddev: Average,
        *,
        variance: Any,
        epsilon: float,
        clock: Any,
        **options: Any,
    ) -> None:
        super().__init__(mean, stddev, **options)
        self._renorm_mean, self._renorm_stddev = renorm_mean, renorm_stddev
        self._variance_variable = variance
        self._epsilon, self._clock = epsilon, clock

    def _is_plain(self, batch: Moments) -> bool:
        return False  # `moving_variance` is to follow

    def _observed(self, batch: Moments) -> list[Observation]:
        kept = self._kept_variance(batch)
        tells_mean, tells_variance = moving_average.updatable(batch, kept)
        kept = ops.sqrt(kept + self._epsilon)
        biased = ops.sqrt(batch.variance + self._epsilon)
        return [
            (self._mean, batch.mean, tells_mean),
            (self._variance, kept, tells_variance),
            (self._renorm_mean, batch.mean, tells_mean),
            (self._renorm_stddev, biased, tells_variance),
        ]

    def _take(self, averages: list[Average], steps: list[Update]) -> None:
        super()._take(averages, steps)
        if self._clock is not None:
            taken = ops.any(steps[0].count > 0)
            self._clock.assign(self._clock.value + ops.cast(taken, self._clock.dtype))
        follows = ops.relu(ops.square(averages[1].variable.value) - self._epsilon)
        old = self._variance_variable.value
        self._variance_variable.assign(ops.where(steps[1].count > 0, follows, old))


def _fitted(average: Average, value: Tensor, tells: Tensor) -> Observation:
    """Return the observation in the dtype of the average, in which it may become infinite."""
    if value.dtype == average.variable.value.dtype:
        return average, value, tells
    value = ops.cast(value, average.variable.dtype)
    return average, value, ops.logical_and(tells, ops.isfinite(value))


def _steps(observed: list[Observation], count: Any) -> list[Update]:
    """Return the step of each average; those that listen alike share the work."""
    shared: dict[Any, Contribution] = {}
    steps = []
    for average, value, flags in observed:
        key = id(flags), average.momentum, average.variable.dtype
        if key not in shared:
            shared[key] = moving_average.contribution(flags, count, average.momentum, key[2])
        steps.append(moving_average.update(value, shared[key]))
    return steps


def _count(flags: Tensor) -> Tensor:
    """Return (C,) int64: how many of the batches, (C,) or (G, C), have the flag."""
    flags = ops.cast(flags, "int64")
    return flags if len(flags.shape) == 1 else ops.sum(flags, 0)


def _agreed_over_replicas(steps: list[Update], refused: Tensor) -> tuple[list[Update], Tensor]:
    """Return the step of all replicas for each of `steps`, and all refusals; one collective."""
    dtype = keras.backend.result_type(*(step.value.dtype for step in steps))
    rows = [ops.cast(row, dtype) for row in [refused, *(row for step in steps for row in step)]]
    refusals, *gathered = ops.unstack(replicas.gather(ops.stack(rows)), axis=1)
    triples = [Update(*gathered[i : i + 3]) for i in range(0, len(gathered), 3)]
    agreed = [moving_average.agreed(triple) for triple in triples]
    return agreed, ops.sum(refusals, 0)
