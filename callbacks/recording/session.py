"""One `fit` of one callback: when it records, what that costs, and where records are written."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import keras

from kbn.callbacks.recording.cost import Cost
from kbn.callbacks.recording.faults import Faults
from kbn.callbacks.recording.interface import RecordingCallback
from kbn.callbacks.recording.optimizer_steps import OptimizerSteps
from kbn.callbacks.recording.patience import shown_if_slow
from kbn.callbacks.recording.settings import layers_in_order, settings
from kbn.callbacks.recording.steps import Passed, Steps
from kbn.callbacks.writing.event_file import EVENTS, EventFile, Record
from kbn.callbacks.writing.writable import check_writable, remove_empty
from kbn.common.warning import warn
from kbn.records import catalogue, file_systems
from kbn.records.history import Rows


@dataclass(frozen=True)
class Left:
    """State that a session passes to the next one.

    Attributes:
        passed: steps, batches and epochs so far.
        recorded_step: the step of the last record; None if there was none.
    """

    passed: Passed = field(default_factory=Passed)
    recorded_step: int | None = None


class Session:
    """The recording of one `fit`.

    Attributes:
        steps: the optimizer's steps.
        cost: time and bytes that recording takes.
        epochs, epochs_of_fit: number of epochs that ended, over all fits and in this one.
    """

    def __init__(
        self, callback: RecordingCallback, faults: Faults, left: Left, *, begins_run: bool
    ) -> None:
        """Begin.

        Args:
            callback: the callback that records; its model is the one that `fit` trains.
            faults: collects the errors.
            left: state of the previous session.
            begins_run: whether the callback has written nothing yet.
        """
        self._callback, self._faults = callback, faults
        self._optimizer = OptimizerSteps(callback)
        self.cost = Cost()
        self.epochs, self.epochs_of_fit = left.passed.epochs, 0
        self._recorded_step, self._begins_run = left.recorded_step, begins_run
        self._looked = self._recorded_in_epoch = self._stands_still = False
        self._file: EventFile | None = None
        self._written = 0  # records in the file
        params = callback.params or {}
        at_once = params.get("batches_per_call") or callback.model.steps_per_execution
        self.steps = Steps(
            self._optimizer,
            callback.schedule.next_step,
            left.passed,
            per_call=int(at_once or 1),
            length=params.get("steps"),
        )

    def prepare(self, watched: keras.Model) -> None:
        """Prepare the callback to record `watched`, which may raise, and choose the event file."""
        # Later, a fault of the file system does not end training.
        created = check_writable(self._callback.directory) if self._begins_run else []
        try:
            with self.cost.spending(), self._shown("prepares to record"):
                places = self._callback.prepare(watched)
        except Exception:
            self._callback.release()
            remove_empty(created)
            raise
        self._file = EventFile(
            self._callback.directory,
            places,
            restarts=self._begins_run,
            json_lines=self._callback.writes_json_lines,
        )

    def batch_begins(self) -> None:
        """Take the first record. Not earlier, because another callback may restore weights."""
        steps, compares = self.steps, self._callback.compares_steps
        if self._file is None or not (steps.first_is_due or compares):
            return
        if steps.first_is_due:
            steps.restart()
            if not compares:
                steps.first_seen()
                self._take_record()
        if compares and steps.calls + 1 >= steps.calls_needed:
            self._looked = self.cost.affords(self._callback.budget)
            if self._looked:
                self._guarded(self._look_before)

    def batch_ended(self) -> None:
        """Take a record if one became due."""
        steps = self.steps
        steps.calls += 1
        if steps.calls < steps.calls_needed or self._file is None:
            return  # early, because this runs at every step
        due = self._callback.schedule.next_step(steps.now)
        now = steps.read()
        first = steps.first_is_due and now > steps.begun_at  # equal while gradients accumulate
        if now >= due or first:
            if first:
                steps.first_seen()
            self._take_record(always=first)
        self._looked = False  # a look is valid for its own step only

    def epoch_ended(self) -> None:
        """Take a record if one is due, and write the summary of the epoch."""
        if self._file is None:
            return
        self.epochs += 1
        self.epochs_of_fit += 1
        due = self._callback.schedule.next_step(self.steps.now)
        self.steps.epoch_ended()
        self._warn_of_standing_steps()
        # If train_step takes more steps than before, an overdue record is taken here.
        if self._callback.schedule.due_at_epoch(self.epochs) or self.steps.now >= due:
            self._take_record()
        if self._recorded_in_epoch:
            self._recorded_in_epoch = False
            self._guarded(self._write_summary)

    def end(self) -> None:
        """Write the cost of recording."""
        if self._file is not None and self.cost.records:
            texts = {catalogue.COST: self.cost.table()}
            self._guarded(self._write, self.steps.now, Record(texts=texts))
        self._file = None

    def left(self) -> Left:
        """Return the state for the next session; this one may have been interrupted."""
        step = max(self.steps.now, self.steps.read())
        passed = Passed(step, self.steps.batches, self.epochs)
        return Left(passed, self._recorded_step)

    def _take_record(self, *, always: bool = False) -> None:
        step = self.steps.now
        if self._recorded_step == step:
            return
        self._warn_of_earlier_run()
        looked = self._looked or not self._callback.compares_steps
        if looked and (always or self.cost.affords(self._callback.budget)):
            self._recorded_step = step
            # The first record also optimizes what `prepare` traced.
            with self._shown("takes a first record", unless=self._written > 0):
                self._guarded(self._record_and_write, step, losing=1)
        else:
            self.cost.postpone()

    def _record_and_write(self, step: int) -> None:
        with self.cost.spending(on="record"):
            self._report_vanished()
            record = self._callback.record(step)
            size = self._write(step, record if self._written else self._introduced(record))
            self._keep(record.rows)
            self._written += 1
            self.cost.recorded()
            self._recorded_in_epoch = True
        self._guarded(self._write_cost, step, size)

    def _introduced(self, record: Record) -> Record:
        """Return `record` with the texts that begin a file: settings and order of layers."""
        texts = {catalogue.SETTINGS: settings(self._callback)}
        if record.rows:
            texts[catalogue.LAYERS] = layers_in_order(record.rows)
        return replace(record, texts={**record.texts, **texts})

    def _write_cost(self, step: int, size: int) -> None:
        with self.cost.spending():
            self.cost.wrote(size)
            rows = Rows(step, self.cost.of_record(size))
            self.cost.wrote(self._write(step, Record(rows)))
            self._keep(rows)

    def _write_summary(self) -> None:
        with self.cost.spending():
            record = self._callback.summarize()
            if record != Record():
                self.cost.wrote(self._write(self.steps.now, record))

    def _look_before(self) -> None:
        with self.cost.spending(on="look"):
            self._optimizer.synchronize()
            self._callback.look_before()

    def _write(self, step: int, record: Record) -> int:
        assert self._file is not None, "prepare comes first"  # noqa: S101
        self._report_vanished()
        return self._file.write(step, record)

    def _shown(self, what: str, *, unless: bool = False) -> contextlib.AbstractContextManager[None]:
        who = type(self._callback).__name__
        return contextlib.nullcontext() if unless else shown_if_slow(who, what)

    def _keep(self, rows: Rows | None) -> None:
        if rows:
            self._callback.history.add(rows)

    def _guarded(self, action: Callable[..., object], *arguments: object, losing: int = 0) -> None:
        self._faults.guard(self.steps.now, action, *arguments, losing=losing)

    def _report_vanished(self) -> None:
        vanished = self._file.vanished() if self._file is not None else []
        folder = self._callback.directory
        if EVENTS in vanished:
            lost, self._written = self._written, 0
            self._faults.report(self.steps.now, f"the files in {folder!r} were removed", lost)
        elif vanished:
            reason = f"{vanished[0]} in {folder!r} was removed, and a new one is begun"
            self._faults.report(self.steps.now, reason, 0)

    def _warn_of_standing_steps(self) -> None:
        steps = self.steps
        if self._stands_still or steps.now != steps.begun_at:
            return
        self._stands_still = steps.batches_of_fit >= self._optimizer.batches_of_a_step()
        if self._stands_still:
            warn(
                f"{type(self._callback).__name__} counts model.optimizer.iterations, which stayed "
                f"at {steps.begun_at} for {steps.batches_of_fit} batches, so no record was due. "
                "Does a LossScaleOptimizer skip every step?"
            )

    def _warn_of_earlier_run(self) -> None:
        new, self._begins_run = self._begins_run and self.steps.begun_at == 0, False
        folder = self._callback.directory
        if new and any("tfevents" in name for name in file_systems.names_in(folder)):
            warn(
                f"{folder!r} contains another run, and TensorBoard will show this run instead. "
                "Use a separate log_dir for each run, and for each callback of the same class."
            )
