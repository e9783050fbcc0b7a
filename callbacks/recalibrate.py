"""Recalibrate: measure the moving statistics again at the end of epochs, before validation."""

from functools import partial

import keras

from kbn.callbacks.recording.faults import LOGGER
from kbn.common import checks
from kbn.common.types import Data, Logs
from kbn.common.warning import warn
from kbn.introspection.batches import Batches
from kbn.introspection.parts import Part, check_part, part_of
from kbn.records.reasons import reason
from kbn.tools.recalibration import ESTIMATORS, recalibrate


class Recalibrate(keras.callbacks.Callback):
    """Runs `kbn.recalibrate` at the end of epochs, before validation.

    Training continues with the recalibrated statistics. Training batches are not normalized with
    them, so they do not change what is learned. (With `renorm=True`, training normalizes with
    `renorm_mean` and `renorm_stddev`, which do not change.)

    Callbacks that save the model at the end of an epoch save the new statistics. If `fit` has no
    validation data, put those callbacks after this one in the list. Put this one after an
    `EarlyStopping` that restores weights, because `EarlyStopping` restores old statistics too.

    Args:
        data: the data to measure on, as for `kbn.recalibrate`: all or some of the training data,
            without augmentation that inference does not have. It must not be an iterator.
        steps: number of batches of `data` to use; None for all.
        every_epochs: recalibrate every this many epochs, and when training ends.
        estimator: "population" or "paper", see `kbn.recalibrate`.
        batch_size: samples per batch of arrays; None means 32.
        model: the part of the model to recalibrate: a model or layer inside it (`gan.generator`),
            or a function from the trained model to it. None: the whole model.

    Raises:
        TypeError, ValueError: for wrong arguments, and at the start of training for a built model
            without batch normalization. A later error, for example if the data raises or
            activations are inf, becomes a warning. The statistics stay as they were, and training
            continues.

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
        data: Data,
        *,
        steps: int | None = None,
        every_epochs: int = 1,
        estimator: str = "population",
        batch_size: int | None = None,
        model: Part = None,
    ) -> None:
        super().__init__()
        checks.one_of("estimator", estimator, ESTIMATORS)
        if Batches(data, steps, batch_size).is_spent_by_reading:
            raise TypeError(
                "data is read at the end of every epoch, so an iterator is not supported. Pass "
                f"arrays, a tf.data.Dataset or a PyDataset. Received: data={type(data).__name__}"
            )
        self.part = check_part(model)
        self._recalibrate = partial(
            recalibrate, data=data, steps=steps, estimator=estimator, batch_size=batch_size
        )
        self._epochs = self._measured_at = 0
        self._due = False
        self._every_epochs = checks.integer("every_epochs", every_epochs, low=1)

    def on_train_begin(self, logs: Logs = None) -> None:
        """Check that there is something to measure."""
        model = part_of(self.model, self.part)
        layers = model._flatten_layers()
        if model.built and not any(
            isinstance(layer, keras.layers.BatchNormalization) for layer in layers
        ):
            raise ValueError(
                "The model has no batch normalization layer to measure. "
                f"Received: model={model.name!r}"
            )

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Decide whether to measure at the end of this epoch."""
        self._epochs += 1
        last = epoch + 1 == self.params.get("epochs")
        self._due = last or self._epochs % self._every_epochs == 0

    def on_test_begin(self, logs: Logs = None) -> None:
        """Measure before validation."""
        self._measure()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Measure if there was no validation."""
        self._measure()

    def on_train_end(self, logs: Logs = None) -> None:
        """Measure if the last epoch has not been measured."""
        self._due = self._measured_at != self._epochs
        self._measure()

    def _measure(self) -> None:
        if not self._due:
            return
        self._due, self._measured_at = False, self._epochs
        try:
            self._recalibrate(part_of(self.model, self.part), verbose=False)
        except Exception as error:
            LOGGER.debug("Recalibrate failed after epoch %d", self._epochs, exc_info=True)
            warn(
                f"Recalibrate failed after epoch {self._epochs}. The statistics stay as they were, "
                f"and training goes on: {reason(error)}"
            )
