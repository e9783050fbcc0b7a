"""The base of the callbacks that record: options, history, and a session for every `fit`."""

import os
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import keras

from kbn import backend
from kbn.callbacks.recording.cost import Cost
from kbn.callbacks.recording.faults import Faults
from kbn.callbacks.recording.log_dirs import checked_log_dir, folder_of, give_back, is_per_model
from kbn.callbacks.recording.schedule import Schedule
from kbn.callbacks.recording.session import Left, Session
from kbn.callbacks.writing.event_file import Record
from kbn.common import checks
from kbn.common.types import LogDirs, Logs, Nested
from kbn.introspection.layer_calls import runs_eagerly
from kbn.introspection.parts import Part, check_part, part_of
from kbn.records.history import History
from kbn.records.tags import Place

if TYPE_CHECKING:
    from pandas import DataFrame


class Recorder(keras.callbacks.Callback):
    """Takes records on a schedule; subclasses define what a record is.

    Steps are `optimizer.iterations`. If the model has no optimizer, or if training leaves it
    untouched (because `train_step` has optimizers of its own), they are the batches of `fit`. If a
    later `fit` starts a new count, the count continues from the last step, so the axis never runs
    backwards.

    If `log_dir` has fields or is a function, each model that is trained begins a new run.

    Attributes:
        history: every row of the run so far, equal to what was written.
        notes: further rows of the table of settings, such as which loss is recorded.
        part: the part of the model to watch, or a function from the trained model to it, or None.
        schedule: when records are taken.
        budget: the largest share of training time that recording may take; None for no limit.
        writes_json_lines: whether rows are also written to `history.jsonl`.
    """

    run = ""
    """The run directory below `log_dir`."""
    compares_steps = False
    """Whether a record is about a step, and needs a look at the model before that step."""

    probe: Nested
    """The probe batch, as NumPy arrays."""
    notes: Mapping[str, str]
    history: History
    _recorded: weakref.ref[keras.Model] | None  # the model of this run
    _session: Session | None
    _directory: str | None

    def __init__(
        self,
        log_dir: LogDirs,
        schedule: Schedule,
        *,
        model: Part,
        budget: float | None,
        json_lines: bool,
    ) -> None:
        super().__init__()
        self.part = check_part(model)
        self._log_dir = checked_log_dir(log_dir)
        self.schedule = schedule
        self.budget = _checked_budget(budget)
        self.writes_json_lines = checks.boolean("json_lines", json_lines)
        self._faults = Faults(type(self).__name__)
        self._forget()

    @property
    def lost_records(self) -> int:
        """Number of records that could not be taken or written."""
        return self._faults.lost_records

    @property
    def directory(self) -> str:
        """The folder of the event file.

        Raises:
            ValueError: before `fit`, if `log_dir` has fields or is a function.
        """
        if self._directory is None:
            raise ValueError(
                f"{type(self).__name__} has no folder before fit, because log_dir depends on the "
                f"model. Received: log_dir={self._log_dir!r}"
            )
        return self._directory

    @property
    def runs_eagerly(self) -> bool:
        """Whether `fit` runs eagerly."""
        return runs_eagerly(self.model)

    @property
    def without_fit(self) -> bool:
        """Whether a loop without `fit` trains the model."""
        return "batches_per_call" in (self.params or {})

    def trained_elsewhere(self, part: keras.Model) -> bool:
        """Return whether a loop or another model trains `part`, and not its own `train_step`."""
        return self.without_fit or part is not self.model

    @property
    def cost(self) -> Cost:
        """Time and bytes that recording took in the last `fit`."""
        return Cost() if self._session is None else self._session.cost

    @property
    def session(self) -> Session:
        """The session of the last `fit`."""
        if self._session is None:
            raise ValueError(
                f"{type(self).__name__} has no session before fit. Pass it to fit first, or to "
                "kbn.callbacks.watching in a loop without fit."
            )
        return self._session

    def begin_run(self) -> None:
        """Set the state that belongs to one run, before its first `fit`."""

    def prepare(self, model: keras.Model) -> Sequence[Place]:
        """Prepare to record `model`, or raise; return the places whose percentiles are recorded."""
        raise NotImplementedError

    def look_before(self) -> None:
        """Keep what the record of the coming step needs; called only if `compares_steps`."""

    def record(self, step: int) -> Record:
        """Take a record of the model as it is now."""
        raise NotImplementedError

    def summarize(self) -> Record:
        """Return what to write at the end of an epoch with records."""
        return Record()

    def release(self) -> None:
        """Drop what `prepare` created."""

    def expected_records(self, first_epoch: int = 0) -> int | None:
        """Return how many records this `fit` takes from `first_epoch` on, if that is known."""
        epochs, steps = ((self.params or {}).get(name) for name in ("epochs", "steps"))
        left = None if epochs is None else max(epochs - first_epoch, 0)
        return self.schedule.expected(left, steps)

    def to_frame(self) -> "DataFrame":
        """Return `history` as a `pandas.DataFrame`: step, layer, site, measure, value.

        Raises:
            ImportError: if pandas is not installed.
        """
        return self.history.to_frame()

    def on_train_begin(self, logs: Logs = None) -> None:
        """Check the model, and prepare to record it."""
        watched = part_of(self.model, self.part)
        self.release()  # of an earlier fit that raised
        # If the folder is fixed, a part may be trained in several models.
        fixed = not is_per_model(self._log_dir) and isinstance(self.part, keras.layers.Layer)
        recorded = watched if fixed else self.model
        self._check_run(recorded)
        left = Left() if self._session is None else self._session.left()
        first = self._recorded is None
        if first:
            self.begin_run()
        self._session = session = Session(self, self._faults, left, begins_run=first)
        if backend.is_chief(self.model):  # the chief alone writes
            self._directory = os.path.join(folder_of(self._log_dir, self.model), self.run)
            self._prepare(session, watched)
            self._recorded = weakref.ref(recorded)

    def _prepare(self, session: Session, watched: keras.Model) -> None:
        try:
            session.prepare(watched)
        except Exception:
            if self._recorded is None:
                give_back(self._log_dir, self.model)
            raise

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Take the first record, or look at the model before a step."""
        self.session.batch_begins()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Take a record if one became due."""
        self.session.batch_ended()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Take a record if one is due, and write the summary of the epoch."""
        self.session.epoch_ended()

    def on_train_end(self, logs: Logs = None) -> None:
        """Write the cost of recording, and drop what was compiled."""
        self.session.end()
        self.release()
        self._faults.sum_up()

    def _forget(self) -> None:
        """Set the state of a callback that has recorded nothing."""
        self.history = History()
        self.notes = {}
        self._recorded = self._session = None
        fixed = not is_per_model(self._log_dir)
        self._directory = os.path.join(folder_of(self._log_dir), self.run) if fixed else None

    def _check_run(self, model: keras.Model) -> None:
        """Forget an earlier model, or raise if both would write to the same folder."""
        if self._recorded is None or self._recorded() is model:
            return
        if is_per_model(self._log_dir):
            self._forget()
            return
        raise ValueError(
            f"This {type(self).__name__} already recorded another model into {self.directory!r}. "
            "Create a callback with its own log_dir for each model, or give log_dir a field "
            f"such as {{trial}}. Received: model={model.name!r}"
        )


def _checked_budget(budget: float | None) -> float | None:
    if budget is None:
        return None
    allowed = "None or a share of training time in (0, 1]"
    return checks.number("budget", budget, allowed, low=0, high=1, open_low=True)
