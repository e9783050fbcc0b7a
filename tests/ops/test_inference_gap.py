"""The gap between batch and moving statistics, against known answers and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbn.ops.inference_gap import (
    SETTLED,
    MeanAndVariance,
    Momentum,
    mean_gap,
    updates_to_settle,
    variance_log_ratio,
)

EPSILON = 1e-3


def statistics(mean, variance):
    return MeanAndVariance(np.atleast_1d(float(mean)), np.atleast_1d(variance + EPSILON))


def test_gaps_have_their_known_answers():
    batch, moving = statistics(3, 4 - EPSILON), statistics(1, 1 - EPSILON)
    assert mean_gap(batch, moving)[0] == pytest.approx(2)
    assert variance_log_ratio(batch, moving)[0] == pytest.approx(math.log(2))


FINITE = st.floats(-20, 20), st.floats(0.01, 50)


@given(*FINITE, *FINITE, st.sampled_from([0.5, 0.9, 0.99, 0.0]))
def test_an_exponential_average_settles_after_the_predicted_updates(
    mean, variance, old, spread, momentum
):
    batch, moving = statistics(mean, variance), statistics(old, spread)
    steps = updates_to_settle(batch, moving, Momentum(momentum))
    assert settled(batch, after(batch, moving, momentum**steps))
    if steps:
        assert not settled(batch, after(batch, moving, momentum ** (steps - 1)))


@given(*FINITE, *FINITE, st.integers(1, 5))
def test_an_average_by_count_settles_after_the_predicted_updates(
    mean, variance, old, spread, batches
):
    batch, moving = statistics(mean, variance), statistics(old, spread)
    steps = updates_to_settle(batch, moving, Momentum(None, 32.0 * batches, 32.0))
    assert settled(batch, after(batch, moving, batches / (batches + steps)))
    if steps:
        assert not settled(batch, after(batch, moving, batches / (batches + steps - 1)))


@given(*FINITE, *FINITE, st.integers(1, 30))
def test_a_debiased_average_settles_after_the_predicted_updates(
    mean, variance, old, spread, steps_before
):
    batch, moving = statistics(mean, variance), statistics(old, spread)
    momentum, seen = 0.9, 1 - 0.9**steps_before
    steps = updates_to_settle(batch, moving, Momentum(momentum, seen))

    def left(n):  # hidden averages are average·seen; each update adds (1 − m)·value
        return momentum**n * seen / (1 - momentum ** (steps_before + n))

    assert settled(batch, after(batch, moving, left(steps)))
    if steps:
        assert not settled(batch, after(batch, moving, left(steps - 1)))


def after(batch, moving, share):
    return MeanAndVariance(*(b + (m - b) * share for b, m in zip(batch, moving, strict=True)))


def settled(batch, moving):
    near = SETTLED * (1 + 1e-9)
    return mean_gap(batch, moving)[0] <= near and abs(variance_log_ratio(batch, moving)[0]) <= near


def test_the_worst_channel_counts_and_what_is_not_finite_is_nan():
    batch = MeanAndVariance(np.array([0.0, 0.0]), np.array([1.0, 1.0]))
    moving = MeanAndVariance(np.array([0.0, 5.0]), np.array([1.0, 1.0]))
    assert updates_to_settle(batch, moving, Momentum(0.5)) == math.ceil(math.log2(5 / SETTLED))
    assert updates_to_settle(batch, batch, Momentum(0.99)) == 0
    broken = MeanAndVariance(np.array([np.nan, 0.0]), np.ones(2))
    assert math.isnan(updates_to_settle(broken, moving, Momentum(0.5)))
    assert updates_to_settle(batch, moving, Momentum(1.0)) == math.inf
