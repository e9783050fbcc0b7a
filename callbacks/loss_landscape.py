"""LossLandscape: the loss and its gradient along the gradient (Santurkar et al. 2018)."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from kbn import backend
from kbn.callbacks.probing.loss_probe import LossProbe
from kbn.callbacks.probing.losses import which_loss
from kbn.callbacks.probing.probe_data import first_batch
from kbn.callbacks.recording.recorder import Recorder
from kbn.callbacks.recording.schedule import schedule
from kbn.callbacks.writing.event_file import Record
from kbn.common import checks
from kbn.common.types import Data, LogDirs
from kbn.introspection.parts import Part
from kbn.records import catalogue, tags
from kbn.records.history import Rows
from kbn.records.tags import Place


class LossLandscape(Recorder):
    """Records how smooth the loss is along its gradient.

    Santurkar et al. (2018), Fig. 4. Let g = ∇L(θ), and let α run over a range of multiples of the
    learning rate. The run `loss_landscape` gets, for the probe batch in training mode:

    - the loss L(θ), and the lowest and the highest L(θ − αg);
    - ‖g‖₂, and the smallest and the largest ‖∇L(θ − αg) − g‖₂ (gradient predictiveness);
    - the effective β-smoothness, the largest ‖∇L(θ − αg) − g‖₂/‖αg‖₂; NaN if g is 0.

    The direction is the plain gradient, for every optimizer. The model's own weights are never
    changed. A record computes `points` + 1 gradients of the loss.

    Example:
        >>> import keras, kbn, numpy as np, tempfile
        >>> x, y = np.random.default_rng(0).normal(size=(64, 8)), np.zeros((64, 1))
        >>> model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> landscape = kbn.callbacks.LossLandscape(tempfile.mkdtemp(), (x, y), every_steps=2)
        >>> _ = model.fit(x, y, batch_size=16, verbose=0, callbacks=[landscape])
        >>> sorted({row.step for row in landscape.history})
        [0, 2, 4]

    Args:
        log_dir: folder for TensorBoard; created if it does not exist. For one folder per trained
            model, it may have the fields `{trial}`, `{model}` and `{time}`, or be a function from
            the trained model to a folder.
        probe_data: (x, y), (x, y, sample_weight), or a `tf.data.Dataset` or `keras.utils.PyDataset`
            of those; x alone if the model needs no targets. The first `probe_size` samples are
            kept.
        every_steps: take a record when training reaches or crosses a multiple of this number of
            steps. The default is 100 if no other cadence is given.
        every_epochs: take a record every this many epochs, at the end of the epoch, instead.
        on_steps: take a record at these steps, instead.
        step_range: smallest and largest α, in learning rates. The paper uses (1/2, 4) for VGG and
            (1/100, 30) for its linear network.
        points: number of values of α, evenly spaced on a logarithmic scale.
        probe_size: number of samples of `probe_data` to keep.
        model: the part of the model to watch: a model or layer inside it (`gan.generator`), or a
            function from the trained model to it. None: the whole model.
        budget: the largest share of training time that recording may take, in (0, 1]. A record
            that would exceed it is skipped.
        json_lines: whether to also write `history` to `history.jsonl`, next to the event file.

    Attributes:
        history: rows (step, layer, site, measure, value), equal to what was written.
        lost_records: number of records that could not be taken or written.
        cost: time and bytes that recording took in the last `fit`.

    Raises:
        TypeError, ValueError: at construction for wrong arguments; before the first step if
            the model does not accept the probe or has no loss.
    """

    run = catalogue.run_of("LossLandscape")

    def __init__(
        self,
        log_dir: LogDirs,
        probe_data: Data,
        *,
        every_steps: int | None = None,
        every_epochs: int | None = None,
        on_steps: Sequence[int] | None = None,
        step_range: tuple[float, float] = (0.5, 4.0),
        points: int = 8,
        probe_size: int = 256,
        model: Part = None,
        budget: float | None = None,
        json_lines: bool = False,
    ) -> None:
        cadence = schedule(every_steps, every_epochs, on_steps)
        super().__init__(log_dir, cadence, model=model, budget=budget, json_lines=json_lines)
        self.step_range = _checked_range(step_range)
        self.points = checks.integer("points", points, low=2)
        self.probe = first_batch(probe_data, checks.integer("probe_size", probe_size, low=1))
        self._loss: LossProbe | None = None
        self._optimizer: keras.optimizers.Optimizer | None = None

    def prepare(self, model: keras.Model) -> Sequence[Place]:
        """Trace the loss and its gradient."""
        optimizers = [getattr(each, "optimizer", None) for each in (model, self.model)]
        self._optimizer = next((each for each in optimizers if each is not None), None)
        if self._optimizer is None:
            raise ValueError(
                "LossLandscape needs the learning rate, but the model has no optimizer. Pass an "
                "optimizer to compile. Received: model.optimizer=None"
            )
        who, elsewhere = type(self).__name__, self.trained_elsewhere(model)
        self._loss = LossProbe(
            model, self.probe, who, elsewhere=elsewhere, eagerly=self.runs_eagerly
        )
        self.notes = which_loss(model, self.model, who, without_fit=self.without_fit)
        return ()

    def record(self, step: int) -> Record:
        """Compute the loss and its gradient at points along the gradient."""
        assert self._loss is not None, "prepare comes first"  # noqa: S101
        assert self._optimizer is not None, "prepare comes first"  # noqa: S101
        rate = float(backend.numpy_of(self._optimizer.learning_rate))
        values = landscape(self._loss, rate * np.geomspace(*self.step_range, self.points))
        return Record(Rows(step, {Place(tags.MODEL, tags.PROBE): values}))

    def release(self) -> None:
        """Drop the compiled function."""
        self._loss = None


# A diverged network has inf and NaN; if the gradient is 0, smoothness is 0/0.
@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def landscape(loss: LossProbe, lengths: np.ndarray) -> Mapping[str, float]:
    """Return the measures of the run `loss_landscape` at the model's weights.

    Args:
        loss: the loss and its gradient.
        lengths: every α; above 0 unless the learning rate is 0.
    """
    weights = loss.values()
    here, gradient = loss(weights)
    losses, changes = [], []
    for length in lengths:
        there = [w - (length * g).astype(w.dtype) for w, g in zip(weights, gradient, strict=True)]
        value, moved = loss(there)
        losses.append(value)
        changes.append(
            _norm([a - b for a, b in zip(_double(moved), _double(gradient), strict=True)])
        )
    size = _norm(_double(gradient))
    smoothness = np.max(np.array(changes) / (lengths * size))
    return {
        "loss": here,
        "loss_lowest": float(np.min(losses)),  # NaN stays
        "loss_highest": float(np.max(losses)),
        "predictiveness_lowest": float(np.min(changes)),
        "predictiveness_highest": float(np.max(changes)),
        "beta_smoothness": float(smoothness),
        "gradient_norm": size,
    }


def _double(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [array.astype(np.float64) for array in arrays]


def _norm(arrays: Sequence[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(array)) for array in arrays)))


def _checked_range(step_range: object) -> tuple[float, float]:
    allowed = "two numbers, 0 < smallest < largest"
    if not isinstance(step_range, tuple | list | np.ndarray) or len(step_range) != 2:
        raise TypeError(f"step_range must be {allowed}. Received: step_range={step_range!r}")
    low, high = (
        checks.number("each of step_range", each, allowed, low=0, open_low=True)
        for each in step_range
    )
    if not low < high:
        raise ValueError(f"step_range must be {allowed}. Received: step_range={step_range!r}")
    return low, high
