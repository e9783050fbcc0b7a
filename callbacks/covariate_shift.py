"""CovariateShift: how the distribution of every layer's activations moves during training."""

from collections.abc import Sequence

import keras

from kbn.callbacks.probing.activations import activations, puts_channels_first
from kbn.callbacks.probing.compiled_runs import build
from kbn.callbacks.probing.probe import Probe
from kbn.callbacks.probing.probe_data import first_samples
from kbn.callbacks.probing.references import References, checked_reference
from kbn.callbacks.probing.shift_measures import measured
from kbn.callbacks.recording.recorder import Recorder
from kbn.callbacks.recording.schedule import Thinning, schedule
from kbn.callbacks.writing.event_file import Record
from kbn.callbacks.writing.worst_layers import Movements
from kbn.common import checks
from kbn.common.types import Data, LogDirs, Logs
from kbn.distributions.distances import DEFAULTS, DISTANCES
from kbn.distributions.sketch import DistributionSketch
from kbn.introspection.layer_tree import (
    Layers,
    LayerSelection,
    check_layers,
    layer_paths,
    select,
    trainable,
)
from kbn.introspection.parts import Part
from kbn.records import catalogue, tags
from kbn.records.history import Rows
from kbn.records.tags import Place


class CovariateShift(Recorder):
    """Records internal covariate shift per layer in TensorBoard while `fit` runs.

    Ioffe & Szegedy (2015) define internal covariate shift as the change in the distribution of
    network activations due to the change in network parameters during training. So the data is
    fixed: every record runs the same probe batch through the model, as in training. Only the
    parameters change, so only they can change the activations. The model, its statistics, seeds
    and optimizer stay the same, bit for bit. This does not cover state outside Keras (a raw
    `tf.Variable`, `tf.random`). Random ops without a `SeedGenerator` differ between records.

    The run `covariate_shift` below `log_dir` gets, for each watched layer and site, a histogram
    `activations/<layer>/<site>` and scalars `<measure>/<layer>/<site>`. The scalars are the
    distances `measures` to the reference record, and `percentile_15`, `percentile_50`,
    `percentile_85`, `mean`, `std`, `kurtosis`, `non_finite`, `zeros`, `dead` and `saturated` (see
    `kbn.distributions.distances` and `callbacks/README.md`). At the end of each epoch with a
    record, a picture `heat_map` and a table `worst_layers` show the layers that moved most. The
    first record is taken before the first step.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> import kbn
        >>> x, y = np.random.default_rng(0).normal(size=(64, 8)), np.zeros((64, 1))
        >>> model = keras.Sequential([keras.layers.Dense(4), kbn.BatchNormalization(name="bn")])
        >>> model.compile("sgd", "mse")
        >>> shift = kbn.callbacks.CovariateShift(tempfile.mkdtemp(), x, every_steps=2)
        >>> _ = model.fit(x, y, batch_size=16, verbose=0, callbacks=[shift])
        >>> sorted({row.step for row in shift.history})
        [0, 2, 4]

    Args:
        log_dir: folder for TensorBoard; created if it does not exist. For one folder per trained
            model, it may have the fields `{trial}`, `{model}` and `{time}`, or be a function from
            the trained model to a folder.
        probe_data: an array, (x, y), a dict of arrays, a `tf.data.Dataset` or a
            `keras.utils.PyDataset`; the first `probe_size` samples are kept.
        layers: layers, paths or glob patterns (`"block_*/conv"`), layer types or a predicate, or
            a list of those. None: the normalization layers, or, in a model without any, the
            layers that own trainable weights. Layers inside a loop cannot be watched: naming such
            a layer raises, and a pattern, type or predicate that matches it skips it with a
            warning.
        sites: which sites of the layers to record: "input", "output" or both.
        every_steps: take a record when training reaches or crosses a multiple of this number of
            steps. The default is 100 if no other cadence is given.
        every_epochs: take a record every this many epochs, at the end of the epoch, instead.
        on_steps: take a record at these steps, instead.
        measures: names of the distances to record: "wasserstein", "jeffreys",
            "wasserstein_gaussian", "jensen_shannon", "psi", "kolmogorov_smirnov", "energy". Each
            is written as the mean over channels, and as `<name>_worst` for the channel that moved
            most.
        reference: the record to compare with: "previous", "first", or a step, which means the
            first record at or after that step. No distance is written before the reference. Later
            calls of `fit` use the same reference. In a new process (after `BackupAndRestore`),
            "first" is the first record of that process.
        histograms: whether to write histograms. TensorBoard shows 100 per tag. If training takes
            more than 90 records, every k-th record has one. If the number of records is unknown,
            each histogram is at least 8 % later than the one before.
        max_samples: the largest number of values to keep of one activation. If there are more,
            quantiles and distances come from a fixed, evenly spread sample. If there are more than
            `max_samples`/64 channels, the sample is from some of the channels only. `mean`, `std`,
            `non_finite` and `dead` always cover all values. With few values per channel, a channel
            can seem to move although its distribution does not: single values change.
        probe_size: number of samples of `probe_data` to keep.
        model: the part of the model to watch: a model or layer inside it (`gan.generator`), or a
            function from the trained model to it. None: the whole model.
        budget: the largest share of training time that recording may take, in (0, 1]. A record
            that would exceed it is skipped, and the next one is taken when it is due.
        json_lines: whether to also write `history` to `history.jsonl`, next to the event file.

    Attributes:
        history: rows (step, layer, site, measure, value), equal to what was written; `to_frame()`
            returns them as a `pandas.DataFrame`.
        lost_records: number of records that could not be taken or written.
        cost: time and bytes that recording took in the last `fit`.

    Raises:
        TypeError, ValueError: at construction for wrong arguments; before the first step if
            the model does not accept the probe, or `layers` matches nothing (the message lists the
            paths).
    """

    run = catalogue.run_of("CovariateShift")

    def __init__(
        self,
        log_dir: LogDirs,
        probe_data: Data,
        *,
        layers: LayerSelection = None,
        sites: Sequence[str] = tags.SITES,
        every_steps: int | None = None,
        every_epochs: int | None = None,
        on_steps: Sequence[int] | None = None,
        measures: Sequence[str] = DEFAULTS,
        reference: str | int = "previous",
        histograms: bool = True,
        max_samples: int = 2**13,
        probe_size: int = 256,
        model: Part = None,
        budget: float | None = None,
        json_lines: bool = False,
    ) -> None:
        cadence = schedule(every_steps, every_epochs, on_steps)
        super().__init__(log_dir, cadence, model=model, budget=budget, json_lines=json_lines)
        check_layers(layers)
        self.layers = layers
        self.sites = _names("sites", sites, tags.SITES)
        self.measures = _names("measures", measures, tuple(DISTANCES))
        self.reference = checked_reference(reference)
        self.histograms = checks.boolean("histograms", histograms)
        self.max_samples = checks.integer("max_samples", max_samples, low=1)
        self.probe = first_samples(probe_data, checks.integer("probe_size", probe_size, low=1))
        self._compiled: Probe[DistributionSketch] | None = None

    def begin_run(self) -> None:
        """Begin without a reference."""
        self._thinning = Thinning()
        self._movements = Movements(self.measures[0])
        self._references = References(self.reference)

    def prepare(self, model: keras.Model) -> Sequence[Place]:
        """Choose the layers and trace the probe."""
        build(model, self.probe, eagerly=self.runs_eagerly)
        paths = layer_paths(model)
        self._compiled = self._traced(model, select(self.layers, paths), paths)
        others = trainable(paths)
        if self.layers is None and not self._compiled.places and others:
            # Training calls no normalization layer, for example because all are in another part.
            self._compiled = self._traced(model, others, paths)
        self._compiled.report_unseen(self.layers)
        return self._compiled.places

    def _traced(
        self, model: keras.Model, chosen: Layers, paths: Layers
    ) -> Probe[DistributionSketch]:
        first = puts_channels_first(paths.values())
        extract = activations(self.sites, self.max_samples, channels_first=first)
        return Probe(model, self.probe, chosen, extract, eagerly=self.runs_eagerly)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """In the first epoch of a `fit`, whose number may be above 0, count the coming records."""
        if not self.session.epochs_of_fit:
            self._thinning.begin(self.expected_records(epoch))

    def record(self, step: int) -> Record:
        """Sketch every watched activation and compare it with its reference."""
        assert self._compiled is not None, "prepare comes first"  # noqa: S101
        sketches = self._compiled()
        found = measured(self.measures, sketches, self._references.before(step, sketches))
        first = self.measures[0]
        self._movements.add(step, {place: of[first] for place, of in found.items() if first in of})
        self._references.after(step, sketches)
        wanted = sketches if self.histograms and self._thinning.keeps() else {}
        return Record(
            Rows(step, found), {place: sketch.histogram() for place, sketch in wanted.items()}
        )

    def summarize(self) -> Record:
        """Draw the layers that moved most, over all records, and list those of the last epoch."""
        return self._movements.summary()

    def release(self) -> None:
        """Drop the compiled probe; the references stay for a later `fit`."""
        self._compiled = None


def _names(argument: str, given: object, allowed: Sequence[str]) -> tuple[str, ...]:
    given = (given,) if isinstance(given, str) else given
    if not isinstance(given, list | tuple):
        raise TypeError(f"{argument} must be a list of {allowed}. Received: {argument}={given!r}")
    if not given:
        raise ValueError(
            f"{argument} must name at least one of {allowed}. Received: {argument}={given!r}"
        )
    return tuple(checks.one_of(argument, name, allowed) for name in given)
