"""Keras callbacks that record how training moves a network; loaded on first use."""

from kbn.common import lazy
from kbn.records.catalogue import RUNS

_EXPORTS = {
    **{run.callback: f"kbn.callbacks.{run.name}" for run in RUNS},
    "Recalibrate": "kbn.callbacks.recalibrate",  # records nothing, so it has no run
    "watching": "kbn.callbacks.training_loop",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy.attach(__name__, _EXPORTS)
