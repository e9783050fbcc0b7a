"""Batch normalization with exact statistics, and internal covariate shift made visible.

`kbn.BatchNormalization` is a `keras.layers.BatchNormalization` whose moving statistics are the
ones Ioffe & Szegedy (2015) define; `kbn.callbacks` records, during `fit`, how the distribution
of every layer's activations moves, for TensorBoard.

Everything is loaded on first use: `import kbn` imports neither Keras nor TensorFlow.
"""

from kbn.common import lazy

__version__ = "0.1.0"

_EXPORTS = {
    "BatchNormalization": "kbn.layers.batch_normalization",
    "callbacks": "kbn.callbacks",
    "recalibrate": "kbn.tools.recalibration",
}
__all__ = ["BatchNormalization", "callbacks", "recalibrate"]
__getattr__, __dir__ = lazy.attach(__name__, _EXPORTS)
