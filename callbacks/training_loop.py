"""`watching`: run Keras callbacks in a training loop of one's own, without `fit`."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import keras

from kbn.common import checks
from kbn.common.types import Logs


def watching(
    callbacks: keras.callbacks.Callback | Sequence[keras.callbacks.Callback],
    model: keras.Model,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    initial_epoch: int = 0,
) -> "Watch":
    """Return a context in which callbacks watch a training loop, as they watch `fit`.

    The context calls the callbacks through `keras.callbacks.CallbackList`: any Keras callback works
    that needs no more than its model and the logs. Call `step` after every training step, and
    `end_epoch` after every epoch. A loop without epochs needs no `end_epoch`.

    A step begins as soon as the one before has ended, because callbacks look at the model before it
    changes. Pass `epochs` and `steps` if they are known. If not, callbacks also see the begin of a
    step, and of an epoch, that do not come.

    The model need not be compiled, unless a callback needs its loss or its optimizer. Without an
    optimizer, or if the loop uses another one, steps are the calls of `step`.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> import kbn
        >>> x, y = np.random.default_rng(0).normal(size=(64, 8)), np.zeros((64, 1))
        >>> model = keras.Sequential([keras.layers.Dense(4), kbn.BatchNormalization(name="bn")])
        >>> model.compile("sgd", "mse")
        >>> shift = kbn.callbacks.CovariateShift(tempfile.mkdtemp(), x, every_steps=2)
        >>> with kbn.callbacks.watching(shift, model, epochs=2, steps=2) as watch:
        ...     for epoch in range(2):
        ...         for batch in range(2):
        ...             watch.step(model.train_on_batch(x, y, return_dict=True))
        ...         watch.end_epoch()
        >>> sorted({row.step for row in shift.history})
        [0, 2, 4]

    Args:
        callbacks: a callback or a list of callbacks.
        model: the model that the loop trains.
        epochs: number of epochs, counted from 0 as in `fit`; None if it is unknown.
        steps: number of steps of an epoch; None if it is unknown.
        initial_epoch: the first epoch, if training is resumed.

    Raises:
        TypeError, ValueError: for wrong arguments, and for calls out of order.
    """
    return Watch(callbacks, model, epochs=epochs, steps=steps, initial_epoch=initial_epoch)


class Watch:
    """A training loop that callbacks watch; see `watching`.

    Attributes:
        epoch: number of the epoch that runs.
        steps_taken: number of steps that this epoch has taken.
    """

    def __init__(
        self,
        callbacks: keras.callbacks.Callback | Sequence[keras.callbacks.Callback],
        model: keras.Model,
        *,
        epochs: int | None,
        steps: int | None,
        initial_epoch: int,
    ) -> None:
        callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
        for each in callbacks:
            if not isinstance(each, keras.callbacks.Callback):
                raise TypeError(f"callbacks must be Keras callbacks. Received: {each!r}")
        if not isinstance(model, keras.Model):
            raise TypeError(f"model must be the keras.Model of the loop. Received: model={model!r}")
        self._callbacks, self._model = callbacks, model
        self._epochs = None if epochs is None else checks.integer("epochs", epochs, low=1)
        self._steps = None if steps is None else checks.integer("steps", steps, low=1)
        self.epoch = checks.integer("initial_epoch", initial_epoch, low=0)
        if self._epochs is not None and self.epoch >= self._epochs:
            raise ValueError(
                "initial_epoch must be less than epochs. "
                f"Received: initial_epoch={initial_epoch}, epochs={epochs}"
            )
        self.steps_taken = 0
        self._list: keras.callbacks.CallbackList | None = None
        self._is_over = self._batch_has_begun = self._epoch_has_begun = False
        self._logs: dict[str, Any] = {}

    @property
    def stop_training(self) -> bool:
        """Whether a callback, such as `EarlyStopping`, wants the loop to end."""
        return bool(getattr(self._model, "stop_training", False))

    def __enter__(self) -> "Watch":
        """Begin training: callbacks check the model, and take their first record."""
        if self._list is not None:
            raise ValueError("This watch has begun already. Call kbn.callbacks.watching again.")
        # A step is one batch, even if `fit` would run several at once.
        self._list = keras.callbacks.CallbackList(
            self._callbacks, model=self._model, epochs=self._epochs, steps=self._steps,
            batches_per_call=1,
        )  # fmt: skip
        self._model.stop_training = False
        self._list.on_train_begin()
        self._begin()
        return self

    def step(self, logs: Logs = None) -> None:
        """Report one training step.

        Args:
            logs: metrics of the step by name, floats or scalar tensors.

        Raises:
            ValueError: outside the context, and after the last step of an epoch or of training.
        """
        calls = self._running("step")
        if not self._batch_has_begun:
            raise ValueError(self._why_no_step())
        self._logs = _checked_logs(logs)
        calls.on_train_batch_end(self.steps_taken, self._logs)
        self._batch_has_begun = False
        self.steps_taken += 1
        self._begin()

    def end_epoch(self, logs: Logs = None) -> None:
        """End an epoch, and begin the next one.

        Args:
            logs: metrics of the epoch by name, also of validation; None: those of the last step.

        Raises:
            ValueError: outside the context, and for an epoch without a step.
        """
        calls = self._running("end_epoch")
        if self._epochs is not None and self.epoch >= self._epochs:
            raise ValueError(
                f"All epochs are over. Received: end_epoch after epoch {self.epoch} of "
                f"{self._epochs}"
            )
        if not self.steps_taken:
            raise ValueError(
                f"Call step before end_epoch. Received: end_epoch in epoch {self.epoch}, which has "
                "no step"
            )
        self._end_epoch(calls, logs)
        self._begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the last epoch and training. After an exception, do nothing, as `fit` does."""
        calls, self._is_over = self._running("exit"), True
        if kind is None:
            if self.steps_taken:
                self._end_epoch(calls, None)
            calls.on_train_end(self._logs)

    def _running(self, call: str) -> keras.callbacks.CallbackList:
        if self._list is None or self._is_over:
            when = "after" if self._is_over else "before"
            raise ValueError(
                f"{call} must be called inside `with kbn.callbacks.watching(…) as watch:`. "
                f"Received: a call {when} it"
            )
        return self._list

    def _begin(self) -> None:
        """Begin the next epoch and step, unless the known last one is over."""
        calls = self._running("step")
        if self._epochs is not None and self.epoch >= self._epochs:
            return
        if self._steps is not None and self.steps_taken >= self._steps:
            return
        if not self._epoch_has_begun:
            calls.on_epoch_begin(self.epoch)
            self._epoch_has_begun = True
        calls.on_train_batch_begin(self.steps_taken)
        self._batch_has_begun = True

    def _end_epoch(self, calls: keras.callbacks.CallbackList, logs: Logs) -> None:
        calls.on_epoch_end(self.epoch, self._logs if logs is None else _checked_logs(logs))
        self.epoch, self.steps_taken = self.epoch + 1, 0
        self._epoch_has_begun = self._batch_has_begun = False

    def _why_no_step(self) -> str:
        if self._epochs is not None and self.epoch >= self._epochs:
            return f"All epochs are over. Received: step after epoch {self.epoch} of {self._epochs}"
        return (
            f"The epoch is over: call end_epoch before the next step. Received: step "
            f"{self.steps_taken + 1} with steps={self._steps}"
        )


def _checked_logs(logs: object) -> dict[str, Any]:
    if logs is None:
        return {}
    if not isinstance(logs, Mapping):
        raise TypeError(
            "logs must be a dict of metrics by name. From train_on_batch, pass return_dict=True. "
            f"Received: logs={logs!r}"
        )
    return dict(logs)
