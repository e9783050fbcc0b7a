"""Every callback that records, made alike: what the tests of their common promises run over."""

import os

from kbn.callbacks import CovariateShift, GradientShift, LossLandscape, MovingStatistics

CALLBACKS = {
    "CovariateShift": CovariateShift,
    "GradientShift": GradientShift,
    "LossLandscape": LossLandscape,
    "MovingStatistics": MovingStatistics,
}


def first_step(name):
    """Return the step of the first record of a fit that starts at 0 and records every step."""
    return 1 if name == "GradientShift" else 0


def steps(callback):
    return sorted({row.step for row in callback.history})


def open_files(folder):
    """Return which files below `folder` this process holds open."""
    held = []
    for number in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the listing's own
            continue
        if path.startswith(str(folder)):
            held.append(path)
    return held
