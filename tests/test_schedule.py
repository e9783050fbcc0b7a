import re

import numpy as np
import pytest

from kbn.callbacks.schedule import DEFAULT_EVERY_STEPS, Schedule, schedule


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
def test_every_steps_asks_what_was_crossed(before, now, due):
    assert Schedule(every_steps=5).due_at_step(before, now) is due


def test_on_steps_and_epochs():
    chosen = schedule(None, None, [3, np.int64(8)])
    assert [step for step in range(1, 11) if chosen.due_at_step(step - 1, step)] == [3, 8]
    assert chosen.due_at_step(4, 12)
    assert not chosen.due_at_epoch(1)
    epochs = schedule(None, 2, None)
    assert [epoch for epoch in range(1, 6) if epochs.due_at_epoch(epoch)] == [2, 4]
    assert not epochs.due_at_step(0, 100)


def test_without_a_cadence_the_default_holds():
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
def test_wrong_cadences_are_told(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        schedule(*arguments)
