"""Keras callbacks that record how training moves a network; loaded on first use."""

from kbn import lazy

_EXPORTS = {"CovariateShift": "kbn.callbacks.covariate_shift"}
__all__ = ["CovariateShift"]
__getattr__, __dir__ = lazy.attach(__name__, _EXPORTS)
