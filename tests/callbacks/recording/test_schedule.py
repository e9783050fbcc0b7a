import math
import re

import numpy as np
import pytest

from kbn.callbacks.recording.schedule import (
    DEFAULT_EVERY_STEPS,
    HISTOGRAMS_KEPT,
    Schedule,
    Thinning,
    schedule,
)


def due_at_step(chosen, before, now):
    return now >= chosen.next_step(before)


@pytest.mark.parametrize(
    ("before", "now", "due"),
    [
        (0, 1, False),
        (4, 5, True),
        (5, 6, False),
        (3, 7, True),
        (5, 10, True),
        (6, 9, False),
        (1, 99, True),
    ],
)
def test_every_steps_counts_crossed_steps(before, now, due):
    assert due_at_step(Schedule(every_steps=5), before, now) is due


def test_on_steps_and_epochs():
    chosen = schedule(None, None, [3, np.int64(8)])
    assert [step for step in range(1, 11) if due_at_step(chosen, step - 1, step)] == [3, 8]
    assert due_at_step(chosen, 4, 12)
    assert not chosen.due_at_epoch(1)
    epochs = schedule(None, 2, None)
    assert [epoch for epoch in range(1, 6) if epochs.due_at_epoch(epoch)] == [2, 4]
    assert not due_at_step(epochs, 0, 100)


def test_next_step_is_later_and_finally_inf():
    every = Schedule(every_steps=5)
    assert [every.next_step(after) for after in (0, 4, 5, 6, 10)] == [5, 5, 10, 10, 15]
    chosen = schedule(None, None, (8, 3, np.int64(3), 0))
    assert [chosen.next_step(after) for after in (-1, 0, 2, 3, 7, 8, 9)] == [
        0, 3, 3, 8, 8, math.inf, math.inf,
    ]  # fmt: skip
    assert schedule(None, 1, None).next_step(0) == math.inf


@pytest.mark.parametrize(
    ("cadence", "epochs", "steps", "records"),
    [
        ((5, None, None), 2, 10, 5),
        ((5, None, None), 1, 4, 1),
        ((5, None, None), 3, 7, 5),
        ((5, None, None), 2, None, None),
        ((5, None, None), None, 10, None),
        ((None, 2, None), 5, 10, 3),
        ((None, 2, None), 5, None, 3),
        ((None, 2, None), None, None, None),
        ((None, None, [3, 8, 3]), 2, 10, 3),
        ((None, None, [3, 8]), None, None, 3),
    ],
)
def test_how_many_records_a_fit_takes(cadence, epochs, steps, records):
    """The one before the first step counts."""
    assert schedule(*cadence).expected(epochs, steps) == records


BEFORE_DOUBLING = HISTOGRAMS_KEPT - 10


def kept(thinning, expected, records):
    """Return which records of one `fit` keep their histograms, by number."""
    thinning.begin(expected)
    return [number for number in range(records) if thinning.keeps()]


@pytest.mark.parametrize("records", [1, 2, BEFORE_DOUBLING - 1, BEFORE_DOUBLING])
def test_if_tensorboard_shows_all_records_all_keep_their_histograms(records):
    assert kept(Thinning(), records, records) == list(range(records))


@pytest.mark.parametrize("records", [91, 100, 150, 180, 181, 1234, 10_000])
def test_of_more_records_every_kth_keeps_them(records):
    chosen = kept(Thinning(), records, records)
    assert BEFORE_DOUBLING / 2 <= len(chosen) <= BEFORE_DOUBLING
    (stride,) = set(np.diff(chosen))
    assert (chosen[0], stride) == (0, -(-records // BEFORE_DOUBLING))


@pytest.mark.parametrize("fits", [[60, 30], [60, 60, 60], [1] * 300, [500] * 20, [10, 10_000, 7]])
def test_over_several_fits_no_more_are_kept_than_tensorboard_shows(fits):
    thinning = Thinning()
    chosen = [kept(thinning, records, records) for records in fits]
    assert chosen[0][0] == 0
    assert sum(map(len, chosen)) <= HISTOGRAMS_KEPT
    if sum(fits) <= BEFORE_DOUBLING:
        assert chosen == [list(range(records)) for records in fits]


def test_after_a_fit_with_all_histograms_the_distance_doubles():
    thinning = Thinning()
    assert kept(thinning, 90, 90) == list(range(90))
    later = [kept(thinning, 1000, 1000), kept(thinning, 10**5, 10**5)]
    assert later[0] == [180 - 91, 360 - 91, 720 - 91]
    assert later[1] == [90 * 2**n - 1091 for n in range(4, 11)]
    assert 90 + sum(map(len, later)) == HISTOGRAMS_KEPT


def test_later_fits_share_the_remaining_histograms():
    thinning = Thinning()
    assert kept(thinning, 50, 50) == list(range(50))
    assert kept(thinning, 100, 100) == list(range(0, 100, 3))  # 34 of the 40 left
    assert kept(thinning, 12, 12) == list(range(0, 12, 2))
    assert kept(thinning, 1, 1) == []  # record 163 is no doubling of record 161


def test_if_the_length_is_unknown_each_is_8_percent_later():
    chosen = np.array(kept(Thinning(), None, 10_000)) + 1
    assert chosen[0] == 1
    assert len(chosen) <= HISTOGRAMS_KEPT
    assert (chosen[1:] >= 1.08 * chosen[:-1]).all()
    # No later than that asks, up to the 90th.
    assert (chosen[1:90] - 1 < 1.08 * chosen[:89]).all()
    assert chosen[89] > 5000
    assert (chosen[90:] >= 2 * chosen[89:-1]).all()


def test_fits_of_known_and_unknown_length_share_the_limit():
    thinning = Thinning()
    lengths = [(40, 40), (None, 500), (2000, 2000), (None, 10_000)]
    assert sum(len(kept(thinning, *each)) for each in lengths) <= HISTOGRAMS_KEPT


def test_without_a_cadence_the_default_is_used():
    assert schedule(None, None, None) == Schedule(every_steps=DEFAULT_EVERY_STEPS)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, None, None), ValueError, "must be an integer of at least 1. Received: every_steps=0"),
        ((None, -1, None), ValueError, "Received: every_epochs=-1"),
        ((1.5, None, None), TypeError, "Received: every_steps=1.5"),
        ((True, None, None), TypeError, "Received: every_steps=True"),
        ((5, 1, None), ValueError, "Received: every_steps=5, every_epochs=1"),
        ((None, None, []), ValueError, "Received: on_steps=[]"),
        ((None, None, [1, -2]), ValueError, "Received: each of on_steps=-2"),
        ((None, None, 7), TypeError, "Received: on_steps=7"),
    ],
)  # fmt: skip
def test_wrong_cadences_raise(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        schedule(*arguments)
