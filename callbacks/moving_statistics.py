"""MovingStatistics: how far the statistics of inference are from those of training."""

from collections.abc import Sequence

import keras
import numpy as np

from kbn.callbacks.probing import inference_check, statistics_gap
from kbn.callbacks.probing.compiled_runs import RefusalError, build
from kbn.callbacks.probing.losses import LossesOfBothModes, which_loss
from kbn.callbacks.probing.probe import Probe
from kbn.callbacks.probing.probe_data import first_batch
from kbn.callbacks.probing.statistics_gap import Gap
from kbn.callbacks.recording.recorder import Recorder
from kbn.callbacks.recording.schedule import schedule
from kbn.callbacks.writing.event_file import Record
from kbn.common import checks
from kbn.common.types import Data, LogDirs
from kbn.common.warning import warn
from kbn.introspection.layer_tree import (
    Layers,
    LayerSelection,
    Preferred,
    check_layers,
    layer_paths,
    select,
)
from kbn.introspection.parts import Part
from kbn.records import catalogue, tags
from kbn.records.history import Rows
from kbn.records.reasons import reason
from kbn.records.tags import Place


def _batch_normalizations(paths: Layers) -> Layers:
    return {
        path: layer
        for path, layer in paths.items()
        if isinstance(layer, keras.layers.BatchNormalization)
    }


_PREFERRED: Preferred = {"batch normalization layers": _batch_normalizations}


class MovingStatistics(Recorder):
    """Records how far each normalization layer's moving statistics are from the batch's.

    Training normalizes with the statistics of the batch, inference with the moving ones. If the
    two differ, the validation loss can be erratic although the training loss is good. Let μ_B and
    σ_B² be the statistics of the probe batch, and μ̂ and σ̂² the moving ones. The run
    `moving_statistics` gets, per layer:

    - |μ_B − μ̂|/√(σ̂² + ε) (`mean_gap`) and ½ ln((σ_B² + ε)/(σ̂² + ε)) (`variance_log_ratio`), as
      the mean over channels and for the worst channel;
    - the root mean square of the difference between the layer's outputs in training mode and in
      inference mode, on the same input (`output_gap`);
    - the number of updates until the moving statistics settle (`steps_to_settle`), and the share
      of updates that the layer skipped (`refused_share`, for kbn's layer only);
    - mean and standard deviation of γ and β over channels.

    If `probe_data` has targets and the model has a loss, the run also gets the loss of the probe
    batch in both modes, and their difference.

    The callback warns once, at the end of an epoch, if the last record shows that inference would
    be off. The warning names the worst layer and what to do. A record before the first step does
    not count.

    Example:
        >>> import keras, kbn, numpy as np, tempfile
        >>> x, y = np.random.default_rng(0).normal(5, 1, size=(640, 8)), np.zeros((640, 1))
        >>> bn = kbn.BatchNormalization(momentum=0.5, name="bn")
        >>> model = keras.Sequential([bn, keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> statistics = kbn.callbacks.MovingStatistics(tempfile.mkdtemp(), (x, y), every_steps=5)
        >>> _ = model.fit(x, y, batch_size=64, shuffle=False, verbose=0, callbacks=[statistics])
        >>> [(r.step, r.value) for r in statistics.history if r.measure == "steps_to_settle"]
        [(0, 7.0), (5, 3.0), (10, 3.0)]

    Args:
        log_dir: folder for TensorBoard; created if it does not exist. For one folder per trained
            model, it may have the fields `{trial}`, `{model}` and `{time}`, or be a function from
            the trained model to a folder.
        probe_data: an array, (x, y), (x, y, sample_weight), a dict of arrays, a `tf.data.Dataset`
            or a `keras.utils.PyDataset`; the first `probe_size` samples are kept.
        layers: layers, paths or glob patterns, layer types or a predicate, or a list of those, all
            of them batch normalization layers, kbn's or Keras's. None: all such layers.
        every_steps: take a record when training reaches or crosses a multiple of this number of
            steps. The default is 100 if no other cadence is given.
        every_epochs: take a record every this many epochs, at the end of the epoch, instead.
        on_steps: take a record at these steps, instead.
        probe_size: number of samples of `probe_data` to keep. Statistics of n samples differ from
            the moving ones by chance, by about 1/√n standard deviations. With fewer than 16 values
            per channel there is no warning.
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
            the model does not accept the probe, or `layers` matches nothing or another kind of
            layer.
    """

    run = catalogue.run_of("MovingStatistics")

    def __init__(
        self,
        log_dir: LogDirs,
        probe_data: Data,
        *,
        layers: LayerSelection = None,
        every_steps: int | None = None,
        every_epochs: int | None = None,
        on_steps: Sequence[int] | None = None,
        probe_size: int = 256,
        model: Part = None,
        budget: float | None = None,
        json_lines: bool = False,
    ) -> None:
        cadence = schedule(every_steps, every_epochs, on_steps)
        super().__init__(log_dir, cadence, model=model, budget=budget, json_lines=json_lines)
        check_layers(layers)
        self.layers = layers
        self.probe = first_batch(probe_data, checks.integer("probe_size", probe_size, low=1))
        self._compiled: Probe[Gap] | None = None
        self._has_losses = False
        self._skipped: dict[str, np.ndarray] = {}
        self._batches_before = 0
        self._found: dict[Place, Gap] = {}
        self._found_at = 0

    def begin_run(self) -> None:
        """Begin without a warning."""
        self._warned = False

    def prepare(self, model: keras.Model) -> Sequence[Place]:
        """Choose the layers, and trace the probe and the losses."""
        build(model, self.probe.x, eagerly=self.runs_eagerly)
        chosen = select(self.layers, layer_paths(model), _PREFERRED)
        others = [path for path in chosen if path not in _batch_normalizations(chosen)]
        if others:
            raise ValueError(
                "MovingStatistics watches only batch normalization layers. These are not: "
                f"{', '.join(others)}. Received: layers={self.layers!r}"
            )
        losses = self._losses_of(model)
        extract, eagerly = statistics_gap.extractor(), self.runs_eagerly
        self._compiled = Probe(model, self.probe.x, chosen, extract, beside=losses, eagerly=eagerly)
        self._compiled.report_unseen(self.layers)
        self._has_losses = losses is not None
        self._warn_of_failed_losses()
        if self._has_losses:
            self.notes = which_loss(
                model, self.model, type(self).__name__, without_fit=self.without_fit
            )
        self._skipped, self._batches_before = _skipped(chosen), self.session.steps.batches
        return ()

    def record(self, step: int) -> Record:
        """Compare the statistics, and the losses if there are any."""
        assert self._compiled is not None, "prepare comes first"  # noqa: S101
        self._found, self._found_at = self._compiled(), step
        skipped = self._skipped_shares()
        found: dict[Place, dict[str, float]] = {}
        for place, gap in self._found.items():
            path = next(path for path, layer in self._compiled.layers.items() if layer is gap.layer)
            share = {"refused_share": skipped[path]} if path in skipped else {}
            found[place] = {**gap.measured, **share}
        found.update(self._losses_now())
        return Record(Rows(step, found))

    def summarize(self) -> Record:
        """Warn, once, if inference would be off after this epoch."""
        if not self._found:  # a model that runs eagerly may skip its layers
            return Record()
        place, gap = max(self._found.items(), key=lambda item: inference_check.distance(item[1]))
        # Before the first step nothing has settled.
        trained = self._found_at > self.session.steps.begun_at
        if trained and inference_check.distance(gap) > 1 and not self._warned:
            self._warned = True
            warn(inference_check.advice(self._found_at, place, gap))
        return Record()

    def release(self) -> None:
        """Drop the compiled functions."""
        self._compiled = None
        self._found = {}

    def _losses_of(self, model: keras.Model) -> LossesOfBothModes | None:
        try:
            who, elsewhere = type(self).__name__, self.trained_elsewhere(model)
            return LossesOfBothModes(model, self.probe, who, elsewhere=elsewhere)
        except RefusalError:  # no targets or no loss, so there are no losses to record
            return None

    def _warn_of_failed_losses(self) -> None:
        """Warn if the losses have just failed. This ends their recording, not the layers'."""
        assert self._compiled is not None, "prepare comes first"  # noqa: S101
        error = self._compiled.failure
        if error is None or not self._has_losses:
            return
        self._has_losses = False
        if not isinstance(error, RefusalError):
            warn(f"MovingStatistics records the layers without losses: {reason(error)}")

    def _losses_now(self) -> dict[Place, dict[str, float]]:
        """Return the losses, if there are any."""
        assert self._compiled is not None, "prepare comes first"  # noqa: S101
        self._warn_of_failed_losses()
        if not self._has_losses:
            return {}
        training, inference = self._compiled.beside
        of_model = {
            "loss_training": training,
            "loss_inference": inference,
            "loss_gap": inference - training,
        }
        return {Place(tags.MODEL, tags.PROBE): of_model}

    def _skipped_shares(self) -> dict[str, float]:
        """Return by path how many updates per batch were skipped since the last record."""
        assert self._compiled is not None, "prepare comes first"  # noqa: S101
        now = self.session.steps.batches
        batches, self._batches_before = now - self._batches_before, now
        before, self._skipped = self._skipped, _skipped(self._compiled.layers)
        calls = {
            path: sum(gap.layer is layer for gap in self._found.values())
            for path, layer in self._compiled.layers.items()
        }
        return {
            path: float(np.max(skips - before[path], initial=0)) / max(batches * calls[path], 1)
            for path, skips in self._skipped.items()
        }


def _skipped(layers: Layers) -> dict[str, np.ndarray]:
    found = {path: statistics_gap.skipped_updates(layer) for path, layer in layers.items()}
    return {path: skips for path, skips in found.items() if skips is not None}
