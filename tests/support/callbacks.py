"""Every callback that records, by name, for the tests of what they have in common."""

import os

import kbn.callbacks
from kbn.callbacks.probing.losses import LossesOfBothModes
from kbn.callbacks.probing.probe import Probe
from kbn.records.catalogue import RUNS

CALLBACKS = {run.callback: getattr(kbn.callbacks, run.callback) for run in RUNS}


def first_step(name):
    """Return the step of the first record of a fit that starts at 0 and records every step."""
    return 1 if CALLBACKS[name].compares_steps else 0


def steps(callback):
    return sorted({row.step for row in callback.history})


def losses_of_both_modes(model, batch):
    """Return a function that computes the losses of `batch` in training and in inference mode."""
    beside = LossesOfBothModes(model, batch, "test")
    probe = Probe(model, batch.x, {}, lambda *_: [], beside=beside)

    def losses():
        probe()
        assert probe.failure is None
        return probe.beside

    return losses


def open_files(folder):
    """Return the files below `folder` that this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the descriptor of the listing itself
            continue
        if path.startswith(str(folder)):
            found.append(path)
    return found
