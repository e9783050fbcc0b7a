"""GradientShift: internal covariate shift as a change of gradients (Santurkar et al. 2018)."""

import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from kbn.callbacks.probing.loss_probe import LossProbe
from kbn.callbacks.probing.losses import which_loss
from kbn.callbacks.probing.mixed_weights import Group, in_groups, in_order
from kbn.callbacks.probing.probe_data import first_batch
from kbn.callbacks.recording.recorder import Recorder
from kbn.callbacks.recording.schedule import schedule
from kbn.callbacks.writing.event_file import Record
from kbn.common import checks
from kbn.common.types import Data, LogDirs
from kbn.introspection.layer_tree import (
    LayerSelection,
    Preferred,
    check_layers,
    layer_paths,
    report_unwatched,
    select,
    trainable,
    trainable_but_normalizations,
)
from kbn.introspection.parts import Part
from kbn.records import catalogue, tags
from kbn.records.history import Rows
from kbn.records.tags import Place

_TRAINABLE: Preferred = {
    "layers with trainable weights other than normalization layers": trainable_but_normalizations,
    "layers with trainable weights": trainable,
}


class GradientShift(Recorder):
    """Records how much a layer's gradient changes when the layers before it take a step.

    Santurkar et al. (2018), Definition 2.1. Let W be the weights before a step, W⁺ those after it,

    - G = ∇_{Wᵢ} L(W₁ … W_k), and
    - G' = ∇_{Wᵢ} L(W₁⁺ … Wᵢ₋₁⁺, Wᵢ … W_k).

    In G' the layers before layer i have taken their step, and layer i and later layers have not.
    The run `gradient_shift` gets, over all trainable weights of each layer:

    - `gradient_shift`: ‖G − G'‖₂;
    - `gradient_shift_relative`: ‖G − G'‖₂/‖G‖₂; inf if G is 0 and G' is not;
    - `gradient_cosine`: the cosine of the angle between G and G'; NaN if one of them is 0.

    Some details:

    - W⁺ are the actual weights after the step, so they include momentum, Adam, clipping and
      constraints. The model's own weights are never changed.
    - The loss is that of the probe batch, in training mode, with the same dropout masks for G and
      G'. This is a variant: the paper uses the batch of the step, which Keras does not show to
      callbacks. So every tag ends in `probe`.
    - "Before" means the order in which the loss first reads the weights, including those of blocks
      and of the model itself. A layer that is called several times, or shares its weights, has the
      position of the first use. A block has the position of the first of its weights.
    - The first layer's shift is 0, because no layer comes before it.
    - If Keras runs several steps at once (`steps_per_execution`), or `train_step` takes several,
      W and W⁺ are that many steps apart.

    A record computes the gradient of the loss for all weights, and one more for each layer except
    the first. Layers are in at most 8 groups. A gradient goes back only as far as its group needs.

    Example:
        >>> import keras, kbn, numpy as np, tempfile
        >>> keras.utils.set_random_seed(0)
        >>> x, y = np.random.default_rng(0).normal(size=(64, 8)), np.zeros((64, 1))
        >>> model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> shift = kbn.callbacks.GradientShift(tempfile.mkdtemp(), (x, y), every_steps=2)
        >>> _ = model.fit(x, y, batch_size=16, verbose=0, callbacks=[shift])
        >>> [(row.step, row.layer) for row in shift.history if row.measure == "gradient_shift"]
        [(1, 'dense'), (1, 'dense_1'), (2, 'dense'), (2, 'dense_1'), (4, 'dense'), (4, 'dense_1')]

    Args:
        log_dir: folder for TensorBoard; created if it does not exist. For one folder per trained
            model, it may have the fields `{trial}`, `{model}` and `{time}`, or be a function from
            the trained model to a folder.
        probe_data: (x, y), (x, y, sample_weight), or a `tf.data.Dataset` or `keras.utils.PyDataset`
            of those; x alone if the model needs no targets. The first `probe_size` samples are
            kept.
        layers: layers, paths or glob patterns, layer types or a predicate, or a list of those.
            None: the layers that own trainable weights, except for normalization layers, or, in a
            model without any, these.
        every_steps: record the step that reaches or crosses a multiple of this number. The
            default is 100 if no other cadence is given. The first step of a `fit` is always
            recorded.
        on_steps: record these steps, instead.
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
            the model does not accept the probe, has no loss, or `layers` matches nothing.
    """

    run = catalogue.run_of("GradientShift")
    compares_steps = True

    def __init__(
        self,
        log_dir: LogDirs,
        probe_data: Data,
        *,
        layers: LayerSelection = None,
        every_steps: int | None = None,
        on_steps: Sequence[int] | None = None,
        probe_size: int = 256,
        model: Part = None,
        budget: float | None = None,
        json_lines: bool = False,
    ) -> None:
        cadence = schedule(every_steps, None, on_steps)
        super().__init__(log_dir, cadence, model=model, budget=budget, json_lines=json_lines)
        check_layers(layers)
        self.layers = layers
        self.probe = first_batch(probe_data, checks.integer("probe_size", probe_size, low=1))
        self._loss: LossProbe | None = None
        self._groups: list[Group] = []
        self._before: list[np.ndarray] | None = None

    def prepare(self, model: keras.Model) -> Sequence[Place]:
        """Trace the gradient and put the layers in order."""
        who, elsewhere = type(self).__name__, self.trained_elsewhere(model)
        self._loss = LossProbe(
            model, self.probe, who, elsewhere=elsewhere, eagerly=self.runs_eagerly
        )
        self.notes = which_loss(model, self.model, who, without_fit=self.without_fit)
        paths = layer_paths(model)
        chosen = select(self.layers, paths, _TRAINABLE)
        watched, missed = in_order(self._loss, chosen)
        problem = (
            "These layers have no gradient, because they have no trainable weights or the model "
            "does not call them in training"
        )
        if not watched:
            raise ValueError(
                f"{problem}: {', '.join(missed)}. Name others in layers. "
                f"Received: layers={self.layers!r}"
            )
        if missed:
            report_unwatched(problem, self.layers, missed, paths)
        self._groups = in_groups(self._loss, watched)
        return ()

    def look_before(self) -> None:
        """Keep the weights as they are before the step."""
        assert self._loss is not None, "prepare comes first"  # noqa: S101
        self._before = None  # if this fails, the record must not use older weights
        self._before = self._loss.values()

    def record(self, step: int) -> Record:
        """Compute the gradients at the weights before the step, and at those mixed per layer."""
        assert self._loss is not None, "prepare comes first"  # noqa: S101
        if self._before is None:
            raise RuntimeError("the weights before the step could not be kept")
        before, after = self._before, self._loss.values()
        gradients = dict(enumerate(self._loss(before)[1]))
        found = {}
        for group in self._groups:
            for layer in group.layers:
                mixed = layer.mixed(before, after)
                moved = gradients if mixed is None else group.gradients(mixed)
                place = Place(layer.path, tags.PROBE)
                found[place] = compared(layer.own(gradients), layer.own(moved))
        return Record(Rows(step, found))

    def release(self) -> None:
        """Drop the compiled functions and the weights."""
        self._loss = self._before = None
        self._groups = []


@np.errstate(over="ignore", invalid="ignore")  # a diverged network has inf and NaN
def compared(gradient: np.ndarray, moved: np.ndarray) -> Mapping[str, float]:
    """Return ‖G − G'‖₂, its ratio to ‖G‖₂ and the cosine of two gradients, float64 vectors."""
    size, size_moved = float(np.linalg.norm(gradient)), float(np.linalg.norm(moved))
    shift = float(np.linalg.norm(gradient - moved))
    relative = shift / size if size else (math.inf if shift else 0.0)
    if np.array_equal(gradient, moved):
        cosine = 1.0
    elif size and size_moved:
        cosine = float(np.clip((gradient / size) @ (moved / size_moved), -1, 1))
    else:
        cosine = math.nan
    return {
        "gradient_shift": shift,
        "gradient_shift_relative": relative,
        "gradient_cosine": cosine,
    }
