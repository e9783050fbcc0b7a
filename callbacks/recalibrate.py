"""Moving statistics measured anew at the end of epochs, before validation sees them."""

import warnings
from typing import Any

import keras

from kbn.common import checks
from kbn.introspection.batches import Batches
from kbn.tools.recalibration import ESTIMATORS, recalibrate


class Recalibrate(keras.callbacks.Callback):
    """Runs `kbn.recalibrate` at the end of epochs, before validation.

    Training goes on from the recalibrated statistics, which normalize no training batch and so
    do not change what is learned (with `renorm=True`, training normalizes with statistics of its
    own, which stay). Callbacks that save the model at an epoch's end save the new statistics; in
    a fit without validation data, put them behind this one in the list. Put this one behind an
    `EarlyStopping` that restores weights, which come with the statistics of their time.

    Args:
        data: what the statistics are measured over, as for `kbn.recalibrate`: training data, whole
            or in part, without augmentation that inference does not have. No iterator.
        steps: how many batches of it; None for all.
        every_epochs: the cadence; it is also done when training ends, however early.
        estimator: "population" or "paper", see `kbn.recalibrate`.
        batch_size: samples per batch of arrays; 32 if None.

    Raises:
        TypeError, ValueError: for wrong arguments, and at the start of training for a model without
            batch normalization. What goes wrong later (data that raises, activations that are
            inf) warns, leaves the statistics as they were, and training goes on.

    Example:
        >>> import keras, numpy as np, kbn
        >>> x = np.random.default_rng(0).normal(3.0, 2.0, size=(64, 2)).astype("float32")
        >>> model = keras.Sequential([kbn.BatchNormalization(), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> history = model.fit(x, x[:, :1], verbose=0, callbacks=[kbn.callbacks.Recalibrate(x)])
        >>> bool(np.allclose(model.layers[0].moving_mean, x.mean(0), rtol=1e-5))
        True
    """

    def __init__(
        self,
        data: Any,
        *,
        steps: int | None = None,
        every_epochs: int = 1,
        estimator: str = "population",
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        checks.one_of("estimator", estimator, ESTIMATORS)
        if Batches(data, steps, batch_size).is_spent_by_reading:
            raise TypeError(
                "data is read at every epoch's end, so it must not be an iterator: give arrays, a "
                f"tf.data.Dataset or a PyDataset. Received: data={type(data).__name__}"
            )
        self._data = data
        self._options: dict[str, Any] = {
            "steps": steps,
            "estimator": estimator,
            "batch_size": batch_size,
        }
        self._epochs = self._measured_at = 0
        self._due = False
        self._every_epochs = checks.integer("every_epochs", every_epochs, low=1)

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that there is something to measure."""
        layers = self.model._flatten_layers()
        if self.model.built and not any(
            isinstance(layer, keras.layers.BatchNormalization) for layer in layers
        ):
            raise ValueError(
                "The model has no batch normalization layer to measure. "
                f"Received: model={self.model.name!r}"
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """See whether this epoch is one of the cadence."""
        self._epochs += 1
        last = epoch + 1 == self.params.get("epochs")
        self._due = last or self._epochs % self._every_epochs == 0

    def on_test_begin(self, logs: Any = None) -> None:
        """Measure before validation does."""
        self._measure()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Measure where there was no validation."""
        self._measure()

    def on_train_end(self, logs: Any = None) -> None:
        """Measure where training ended before the cadence came round."""
        self._due = self._measured_at != self._epochs
        self._measure()

    def _measure(self) -> None:
        if not self._due:
            return
        self._due, self._measured_at = False, self._epochs
        try:
            recalibrate(self.model, self._data, verbose=False, **self._options)
        except Exception as error:
            warnings.warn(
                f"Recalibrate left the statistics of epoch {self._epochs} as they were, and "
                f"training goes on: {type(error).__name__}: {error}",
                stacklevel=2,
            )
