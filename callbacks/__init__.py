"""Keras callbacks that record how training moves a network; loaded on first use."""

from kbn import lazy

_EXPORTS = {
    "CovariateShift": "kbn.callbacks.covariate_shift",
    "Recalibrate": "kbn.callbacks.recalibrate",
}
__all__ = ["CovariateShift", "Recalibrate"]
__getattr__, __dir__ = lazy.attach(__name__, _EXPORTS)
