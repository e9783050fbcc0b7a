"""Batch normalization with exact statistics, and internal covariate shift shown in TensorBoard.

`kbn.BatchNormalization` is a `keras.layers.BatchNormalization` with the moving statistics that
Ioffe & Szegedy (2015) define. The callbacks in `kbn.callbacks` record, during `fit`, how the
distribution of every layer's activations moves.

All names are loaded on first use: `import kbn` imports neither Keras nor a backend.
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
