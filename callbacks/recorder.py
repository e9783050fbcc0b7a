"""The life of a hook during `fit`: its step count, its cadence, its event file, its faults."""

import glob
import inspect
import os
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kbn.callbacks.schedule import Schedule
from kbn.callbacks.writer import EventFile, check_log_dir
from kbn.tags import Row, Tap

Record = tuple[Sequence[Row], Mapping[Tap, np.ndarray]]


class Recorder(keras.callbacks.Callback):
    """Takes a record whenever the schedule says so; subclasses say what a record is.

    Steps are `optimizer.iterations`. Where a later `fit` starts a new count (a model compiled
    again), it goes on from the last step, so that the axis never runs backwards.

    Attributes:
        history: every row recorded so far, equal to what was written.
        lost_records: how many records could not be taken or written.
    """

    def __init__(self, log_dir: Any, run: str, schedule: Schedule) -> None:
        super().__init__()
        self.history: list[Row] = []
        self.lost_records = 0
        self._directory = os.path.join(check_log_dir(log_dir), run)
        self._schedule = schedule
        self._file: EventFile | None = None
        self._watched: Any = None  # weak reference to the model of the first fit
        self._step = self._offset = self._begun_at = self._epochs = self._epochs_of_fit = 0
        self._first_is_due = self._failed = False
        self._recorded_step: int | None = None

    def prepare(self, model: keras.Model) -> Sequence[Tap]:
        """Get ready to record `model`, or raise; return the places whose percentiles are kept."""
        raise NotImplementedError

    def record(self, step: int) -> Record:
        """Take a record of the model as it is now."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of what `prepare` made."""

    def on_train_begin(self, logs: Any = None) -> None:
        """Check everything against the model, then open the event file."""
        self._check_model()
        self._close()  # of an earlier fit that raised and whose frames still live
        self._offset = max(0, self._step - self._iterations())
        self._begun_at = self._step = self._iterations() + self._offset
        taps = self.prepare(self.model)
        self._warn_of_earlier_run()
        self._file = _open(self._directory)
        self._watched = weakref.ref(self.model)
        self._first_is_due, self._epochs_of_fit = True, 0
        # Keras tells callbacks nothing when training raises; but then the list of callbacks,
        # which lives as long as `fit` runs, goes away.
        weakref.finalize(_fit_scope() or self, EventFile.close, self._file)
        self._guarded(self._file.write_layout, taps)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Take the first record. Here, not earlier: another callback may restore weights first."""
        if self._first_is_due:
            self._first_is_due = False
            self._begun_at = self._step = self._iterations() + self._offset
            self._take_record()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Take a record where one became due."""
        before, self._step = self._step, self._iterations() + self._offset
        if self._schedule.due_at_step(before, self._step):
            self._take_record()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Take a record where one is due, and bring all to disk."""
        self._epochs += 1
        self._epochs_of_fit += 1
        self._warn_of_standing_steps()
        if self._schedule.due_at_epoch(self._epochs):
            self._take_record()
        if self._file is not None:
            self._guarded(self._file.flush)

    def on_train_end(self, logs: Any = None) -> None:
        """Close the event file and forget the compiled probe."""
        self._close()
        if self.lost_records:
            warnings.warn(
                f"{type(self).__name__} lost {self.lost_records} records in all.", stacklevel=2
            )

    def _take_record(self) -> None:
        if self._recorded_step != self._step:
            self._recorded_step = self._step
            self._guarded(self._record_and_write, losing=1)

    def _record_and_write(self) -> None:
        rows, histograms = self.record(self._step)
        if self._file is not None:
            self._file.write(self._step, rows, histograms)
            self._file.flush()  # whatever becomes of training, what was recorded is on disk
        self.history.extend(rows)

    def _guarded(self, action: Any, *arguments: Any, losing: int = 0) -> None:
        """Run `action`; where it fails, count and warn once: a fault must not end training."""
        try:
            action(*arguments)
        except Exception as error:
            self.lost_records += losing
            if not self._failed:
                self._failed = True
                warnings.warn(
                    f"{type(self).__name__} could not record at step {self._step} and training "
                    f"goes on without: {type(error).__name__}: {error}. "
                    f"Lost records: {self.lost_records} so far.",
                    stacklevel=2,
                )

    def _iterations(self) -> int:
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def _warn_of_standing_steps(self) -> None:
        if self._epochs_of_fit == 1 and self._step == self._begun_at:
            warnings.warn(
                f"{type(self).__name__} counts steps by model.optimizer.iterations, which stood at "
                f"{self._step} for a whole epoch, so no further record was due. Does train_step "
                "use optimizers of its own?",
                stacklevel=2,
            )

    def _warn_of_earlier_run(self) -> None:
        new = self._watched is None and self._step == 0
        if new and glob.glob(os.path.join(glob.escape(self._directory), "*tfevents*")):
            warnings.warn(
                f"{self._directory!r} holds an earlier run, and TensorBoard will draw both on one "
                "axis: give each run a log_dir of its own.",
                stacklevel=2,
            )

    def _check_model(self) -> None:
        if getattr(self.model, "optimizer", None) is None:
            raise ValueError(
                f"{type(self).__name__} counts steps by the model's optimizer, and it has none. "
                "Received: model.optimizer=None"
            )
        first = self._watched and self._watched()
        if self._watched and first is not self.model:
            raise ValueError(
                f"This {type(self).__name__} already recorded another model into "
                f"{self._directory!r}. Make a new one, with a log_dir of its own, for each model. "
                f"Received: model={self.model.name!r}"
            )

    def _close(self) -> None:
        self.release()
        if self._file is not None:
            self._guarded(self._file.close)
        self._file = None


def _open(directory: str) -> EventFile:
    try:
        return EventFile(directory)
    except Exception as error:
        raise ValueError(
            f"log_dir cannot be written: {error}. Received: run folder {directory!r}"
        ) from error


def _fit_scope() -> keras.callbacks.CallbackList | None:
    """Return the list of callbacks that `fit` runs, found among the callers."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return owner
        frame = frame.f_back
    return None
