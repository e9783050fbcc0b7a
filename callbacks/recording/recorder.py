"""The base of the callbacks that record: options, history, and a session for every `fit`."""

import os
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

from kbn import backend
from kbn.callbacks.recording.cost import Cost
from kbn.callbacks.recording.faults import Faults
from kbn.callbacks.recording.schedule import Schedule
from kbn.callbacks.recording.session import Left, Session
from kbn.callbacks.writing.event_file import Record, check_log_dir
from kbn.common import checks
from kbn.common.types import LogDir, Logs, Nested
from kbn.records.history import History
from kbn.records.tags import Place

if TYPE_CHECKING:
    from pandas import DataFrame


class Recorder(keras.callbacks.Callback):
    """Takes records on a schedule; subclasses define what a record is.

    Steps are `optimizer.iterations`. If a later `fit` starts a new count (because the model was
    compiled again), the count continues from the last step, so the axis never runs backwards.

    Attributes:
        history: every row recorded so far, equal to what was written.
        schedule: when records are taken.
        budget: the largest share of training time that recording may take; None for no limit.
        directory: the folder of the event file.
        writes_json_lines: whether rows are also written to `history.jsonl`.
    """

    run = ""
    """The run directory below `log_dir`."""
    compares_steps = False
    """Whether a record is about a step, and needs a look at the model before that step."""

    probe: Nested
    """The probe batch, as NumPy arrays."""

    def __init__(
        self, log_dir: LogDir, schedule: Schedule, *, budget: float | None, json_lines: bool
    ) -> None:
        super().__init__()
        self.history = History()
        self.directory = os.path.join(check_log_dir(log_dir), self.run)
        self.schedule = schedule
        self.budget = _checked_budget(budget)
        self.writes_json_lines = checks.boolean("json_lines", json_lines)
        self._faults = Faults(type(self).__name__)
        self._watched: weakref.ref[keras.Model] | None = None  # the model of the first fit
        self._session: Session | None = None

    @property
    def lost_records(self) -> int:
        """Number of records that could not be taken or written."""
        return self._faults.lost_records

    @property
    def cost(self) -> Cost:
        """Time and bytes that recording took in the last `fit`."""
        return Cost() if self._session is None else self._session.cost

    @property
    def session(self) -> Session:
        """The session of the last `fit`."""
        if self._session is None:
            raise ValueError(
                f"{type(self).__name__} has no session before fit. Pass it to fit first."
            )
        return self._session

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
        self._check_model()
        self.release()  # of an earlier fit that raised
        left = Left() if self._session is None else self._session.left()
        first = self._watched is None
        self._session = session = Session(self, self._faults, left, begins_run=first)
        if backend.is_chief(self.model):  # the chief alone writes
            session.prepare()
            self._watched = weakref.ref(self.model)

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

    def _check_model(self) -> None:
        if getattr(self.model, "optimizer", None) is None:
            raise ValueError(
                f"{type(self).__name__} counts the steps of the model's optimizer, but the model "
                "has none. Pass an optimizer to compile. Received: model.optimizer=None"
            )
        first = self._watched and self._watched()
        if self._watched and first is not self.model:
            raise ValueError(
                f"This {type(self).__name__} already recorded another model into "
                f"{self.directory!r}. Create a callback with its own log_dir for each model. "
                f"Received: model={self.model.name!r}"
            )


def _checked_budget(budget: float | None) -> float | None:
    if budget is None:
        return None
    allowed = "None or a share of training time in (0, 1]"
    return checks.number("budget", budget, allowed, low=0, high=1, open_low=True)
