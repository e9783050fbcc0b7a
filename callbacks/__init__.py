"""Keras callbacks that record how training moves a network; loaded on first use."""

from kbn.common import lazy

_EXPORTS = {
    "CovariateShift": "kbn.callbacks.covariate_shift",
    "GradientShift": "kbn.callbacks.gradient_shift",
    "LossLandscape": "kbn.callbacks.loss_landscape",
    "MovingStatistics": "kbn.callbacks.moving_statistics",
    "Recalibrate": "kbn.callbacks.recalibrate",
}
__all__ = [
    "CovariateShift",
    "GradientShift",
    "LossLandscape",
    "MovingStatistics",
    "Recalibrate",
]
__getattr__, __dir__ = lazy.attach(__name__, _EXPORTS)
