"""The life of a hook during `fit`: its cadence, its event file, its price, its faults."""

import glob
import inspect
import os
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras

from kbn.backend.tensorflow import replicas
from kbn.callbacks.recording.cost import Cost
from kbn.callbacks.recording.faults import Faults
from kbn.callbacks.recording.schedule import Schedule
from kbn.callbacks.recording.settings import layers_in_order, settings
from kbn.callbacks.recording.steps import Steps
from kbn.callbacks.writing.event_file import EVENTS, EventFile, Record, check_log_dir
from kbn.common import checks
from kbn.records import catalogue
from kbn.records.history import History, Rows
from kbn.records.tags import Place


class Recorder(keras.callbacks.Callback):
    """Takes a record whenever the schedule says so; subclasses say what a record is.

    Steps are `optimizer.iterations`. Where a later `fit` starts a new count (a model compiled
    again), it goes on from the last step, so that the axis never runs backwards.

    Attributes:
        history: every row recorded so far, equal to what was written.
        cost: time and bytes that watching took in the last `fit`.
    """

    run = ""
    """The run directory below `log_dir`."""
    compares_steps = False
    """Whether a record is about a step, and needs a look before it."""

    def __init__(
        self, log_dir: Any, schedule: Schedule, *, budget: float | None, json_lines: bool
    ) -> None:
        super().__init__()
        self.history = History()
        self._faults = Faults(type(self).__name__)
        self.cost = Cost()
        self._directory = os.path.join(check_log_dir(log_dir), self.run)
        self._schedule = schedule
        self._budget = _checked_budget(budget)
        self._json_lines = checks.boolean("json_lines", json_lines)
        self._file: EventFile | None = None
        self._watched: Any = None  # weak reference to the model of the first fit
        self._steps = Steps(schedule.next_step)
        self._begun_at = self._epochs = self._epochs_of_fit = 0
        self._is_new = self._looked = self._recorded_in_epoch = False
        self._stands_still = False
        self._recorded_step: int | None = None
        self._written = 0  # records in the file that is open

    @property
    def lost_records(self) -> int:
        """How many records could not be taken or written."""
        return self._faults.lost_records

    def prepare(self, model: keras.Model) -> Sequence[Place]:
        """Get ready to record `model`, or raise; return the places whose percentiles are kept."""
        raise NotImplementedError

    def look_before(self) -> None:
        """Keep what a record about the coming step needs; only where `compares_steps`."""

    def record(self, step: int) -> Record:
        """Take a record of the model as it is now."""
        raise NotImplementedError

    def summarise(self) -> Record:
        """Return what is written once at the end of an epoch with records."""
        return Record()

    def release(self) -> None:
        """Let go of what `prepare` made."""

    def expected_records(self, first_epoch: int = 0) -> int | None:
        """Return how many records this `fit` takes from `first_epoch` on, if that is known."""
        epochs, steps = ((self.params or {}).get(name) for name in ("epochs", "steps"))
        left = None if epochs is None else max(epochs - first_epoch, 0)
        return self._schedule.expected(left, steps)

    def to_frame(self) -> Any:
        """Return `history` as a `pandas.DataFrame`: step, layer, site, measure, value.

        Raises:
            ImportError: where pandas is not installed (`pip install pandas`).
        """
        return self.history.to_frame()

    def on_train_begin(self, logs: Any = None) -> None:
        """Check everything against the model, and get ready."""
        self._check_model()
        self._close()  # of an earlier fit that raised and whose frames still live
        self.cost = Cost()
        self._recorded_in_epoch = self._stands_still = False
        self._epochs_of_fit = 0
        self._steps.begin(self.model, (self.params or {}).get("steps"))
        if not replicas.is_chief(self.model):
            return  # the chief alone writes
        places = self._prepared()
        self._is_new = self._watched is None
        self._file = EventFile(
            self._directory, places, restarts=self._is_new, json_lines=self._json_lines
        )
        self._written = 0
        self._watched = weakref.ref(self.model)
        self._begun_at, self._steps.first_is_due = self._steps.now, True
        # Keras tells callbacks nothing when training raises; but then the list of callbacks,
        # which lives as long as `fit` runs, goes away.
        weakref.finalize(_fit_scope() or self, EventFile.close, self._file)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Take the first record. Here, not earlier: another callback may restore weights first."""
        steps = self._steps
        if not (steps.first_is_due or self.compares_steps) or self._file is None:
            return
        if steps.first_is_due:
            self._begun_at = steps.read_anew()
            if not self.compares_steps:
                steps.first_is_due = False
                self._take_record()
        if self.compares_steps and steps.calls + 1 >= steps.calls_needed:
            self._looked = self.cost.affords(self._budget)
            if self._looked:
                self._guarded(self._look_before)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Take a record where one became due."""
        steps = self._steps
        steps.calls += 1
        if steps.calls < steps.calls_needed or self._file is None:
            return  # after no more than this: it is done at every step
        due = self._schedule.next_step(steps.now)
        now = steps.read()
        first = steps.first_is_due and now > self._begun_at  # gradients may be accumulated yet
        if now >= due or first:
            steps.first_is_due = steps.first_is_due and not first
            self._take_record(always=first)
        self._looked = False  # a look is of its own step alone

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Take a record where one is due, and write the summary of the epoch."""
        if self._file is None:
            return
        self._epochs += 1
        self._epochs_of_fit += 1
        due = self._schedule.next_step(self._steps.now)
        self._steps.epoch_ended()
        self._warn_of_standing_steps()
        # Where train_step makes more steps than before, what was due comes here at the latest.
        if self._schedule.due_at_epoch(self._epochs) or self._steps.now >= due:
            self._take_record()
        if self._recorded_in_epoch:
            self._recorded_in_epoch = False
            self._guarded(self._write_summary)

    def on_train_end(self, logs: Any = None) -> None:
        """Write what it all cost, close the event file and forget what was compiled."""
        if self._file is not None and self.cost.records:
            self._tell_vanished()
            texts = {catalogue.COST: self.cost.table()}
            self._guarded(self._file.write, self._steps.now, Record(texts=texts))
        self._close()
        self._faults.sum_up()

    def _prepared(self) -> Sequence[Place]:
        try:
            with self.cost.spending():
                return self.prepare(self.model)
        except Exception:
            self.release()
            raise

    def _take_record(self, *, always: bool = False) -> None:
        step = self._steps.now
        if self._recorded_step == step:
            return
        self._warn_of_earlier_run()
        looked = self._looked or not self.compares_steps
        if looked and (always or self.cost.affords(self._budget)):
            self._recorded_step = step
            self._guarded(self._record_and_write, step, losing=1)
        else:
            self.cost.postponed += 1

    def _record_and_write(self, step: int) -> None:
        assert self._file is not None  # noqa: S101
        with self.cost.spending(on="record"):
            self._tell_vanished()
            record = self.record(step)
            if not self._written:
                record = self._introduced(record)
            size = self._file.write(step, record)
            if record.rows:
                self.history.add(record.rows)
            self._written += 1
            self.cost.records += 1
            self._recorded_in_epoch = True
        self._guarded(self._write_cost, step, size)

    def _introduced(self, record: Record) -> Record:
        """Return `record` with what a reader of the file must know first."""
        texts = {catalogue.SETTINGS: settings(self, self._schedule, self._budget)}
        if record.rows:
            texts[catalogue.LAYERS] = layers_in_order(record.rows)
        return replace(record, texts={**record.texts, **texts})

    def _write_cost(self, step: int, size: int) -> None:
        assert self._file is not None  # noqa: S101
        with self.cost.spending():
            self.cost.bytes += size
            spent = {"milliseconds": 1e3 * self.cost.last, "bytes": size}
            rows = Rows(step, {
                Place("record", site): {catalogue.MONITOR: one} for site, one in spent.items()
            })  # fmt: skip
            self.cost.bytes += self._file.write(step, Record(rows))
            self.history.add(rows)

    def _write_summary(self) -> None:
        assert self._file is not None  # noqa: S101
        with self.cost.spending():
            record = self.summarise()
            if record != Record():
                self.cost.bytes += self._file.write(self._steps.now, record)

    def _look_before(self) -> None:
        with self.cost.spending(on="look"):
            self.look_before()

    def _guarded(self, action: Any, *arguments: Any, losing: int = 0) -> None:
        self._faults.guard(self._steps.now, action, *arguments, losing=losing)

    def _tell_vanished(self) -> None:
        assert self._file is not None  # noqa: S101
        vanished = self._file.vanished()
        if EVENTS in vanished:
            lost, self._written = self._written, 0
            reason = f"the files in {self._directory!r} were removed"
            self._faults.tell(self._steps.now, reason, lost)
        elif vanished:
            reason = f"{vanished[0]} in {self._directory!r} was removed, and is begun anew"
            self._faults.tell(self._steps.now, reason, 0)

    def _warn_of_standing_steps(self) -> None:
        if not self._stands_still and self._steps.stand_still(self._begun_at):
            self._stands_still = True
            warnings.warn(
                f"{type(self).__name__} counts steps by model.optimizer.iterations, which stood at "
                f"{self._begun_at} for {self._steps.batches_of_fit} batches, so no further record "
                "was due. Does train_step use optimizers of its own, or does a LossScaleOptimizer "
                "refuse every step?",
                stacklevel=2,
            )

    def _warn_of_earlier_run(self) -> None:
        new, self._is_new = self._is_new and self._begun_at == 0, False
        if new and glob.glob(os.path.join(glob.escape(self._directory), "*tfevents*")):
            warnings.warn(
                f"{self._directory!r} holds another run, and TensorBoard will show this one in "
                "its place: give each run, and each hook of a kind, a log_dir of its own.",
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


def _checked_budget(budget: float | None) -> float | None:
    if budget is None:
        return None
    allowed = "None or a share of training time in (0, 1]"
    return checks.number("budget", budget, allowed, low=0, high=1, open_low=True)


def _fit_scope() -> keras.callbacks.CallbackList | None:
    """Return the list of callbacks that `fit` runs, found among the callers."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return owner
        frame = frame.f_back
    return None
