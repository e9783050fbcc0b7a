"""CovariateShift: how the distribution of every layer's activations moves during training."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kbn import checks, measures, tags
from kbn.callbacks.layer_tree import asked_for, check_layers, layer_paths, select
from kbn.callbacks.probe import Probe
from kbn.callbacks.probe_data import first_samples
from kbn.callbacks.recorder import Record, Recorder
from kbn.callbacks.schedule import schedule
from kbn.callbacks.writer import row
from kbn.sketch import DistributionSketch
from kbn.tags import Tap

REFERENCES = ("previous", "first")


class CovariateShift(Recorder):
    """Record internal covariate shift per layer into TensorBoard while `fit` runs.

    Ioffe & Szegedy (2015) call the change in the distribution of network activations due to the
    change in network parameters internal covariate shift. So the data is held fixed: the same
    probe batch runs through the model, as in training, at every record; activations differ only
    where parameters do. The model, its statistics, seeds and optimizer stay as they are, bit for
    bit. What a layer keeps or draws outside Keras is beyond reach (a raw `tf.Variable`,
    `tf.random`); random ops without a `SeedGenerator` differ between records.

    Below `log_dir`, in the run `covariate_shift`, each watched layer and site gets a histogram
    `activations/<layer>/<site>` and the scalars `percentile_15`, `percentile_50`,
    `percentile_85`, `mean`, `std`, `wasserstein`, `jeffreys`, `non_finite` and `zeros` (see
    `kbn.measures` and `callbacks/README.md`). The first record is taken before the first step.

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
        log_dir: folder for TensorBoard; created where absent.
        probe_data: an array, (x, y), a dict of arrays, a `tf.data.Dataset` or a
            `keras.utils.PyDataset`; the first `probe_size` samples are kept.
        layers: layers, paths or glob patterns (`"block_*/conv"`), layer types or a predicate, or
            a list of those. None: the normalization layers, or, in a model without any, the
            layers that own a kernel. Layers inside a loop cannot be watched: named one by one
            they raise, matched otherwise they are left out with a warning.
        sites: which sides of the layers, of "input" and "output".
        every_steps: a record whenever a multiple of it is crossed; 100 where no cadence is given.
        every_epochs: a record at the end of every so many epochs, instead.
        on_steps: a record at these steps, instead.
        reference: what a record is compared with, the "previous" or the "first" one.
        histograms: whether to write histograms.
        max_samples: the most values of one activation that leave the device. Where there are
            more, quantiles and distances are those of a fixed, evenly spread sample; `mean`,
            `std` and the shares are over all values all the same.
        probe_size: how many samples are kept of `probe_data`.

    Attributes:
        history: list of rows (step, layer, site, measure, value), equal to what was written.
        lost_records: how many records could not be taken or written.

    Raises:
        TypeError, ValueError: at construction for wrong arguments; before the first step where
            the model refuses the probe, or `layers` matches nothing (the message lists the paths).
    """

    def __init__(
        self,
        log_dir: Any,
        probe_data: Any,
        *,
        layers: Any = None,
        sites: Sequence[str] = tags.SITES,
        every_steps: int | None = None,
        every_epochs: int | None = None,
        on_steps: Sequence[int] | None = None,
        reference: str = "previous",
        histograms: bool = True,
        max_samples: int = 2**14,
        probe_size: int = 256,
    ) -> None:
        super().__init__(log_dir, tags.RUN_DIRECTORY, schedule(every_steps, every_epochs, on_steps))
        check_layers(layers)
        self.layers = layers
        self.sites = _check_sites(sites)
        self.reference = checks.one_of("reference", reference, REFERENCES)
        self.histograms = checks.boolean("histograms", histograms)
        self.max_samples = checks.integer("max_samples", max_samples, low=1)
        self.probe = first_samples(probe_data, checks.integer("probe_size", probe_size, low=1))
        self._compiled: Probe | None = None
        self._references: dict[Tap, DistributionSketch] = {}

    def prepare(self, model: keras.Model) -> Sequence[Tap]:
        """Choose the layers and trace the probe."""
        chosen = select(self.layers, layer_paths(model))
        self._compiled = Probe(model, self.probe, chosen, self.sites, self.max_samples)
        if self._compiled.unseen:
            self._tell_unseen(self._compiled)
        return self._compiled.taps

    def record(self, step: int) -> Record:
        """Sketch every watched activation and compare it with its reference."""
        assert self._compiled is not None, "prepare comes first"  # noqa: S101
        sketches = self._compiled()
        rows = [
            row(step, tap, measure, value)
            for tap, sketch in sketches.items()
            for measure, value in measure_all(sketch, self._references.get(tap, sketch)).items()
        ]
        self._keep_references(sketches)
        wanted = sketches if self.histograms else {}
        return rows, {tap: sketch.histogram() for tap, sketch in wanted.items()}

    def release(self) -> None:
        """Drop the compiled probe; the references stay for a later `fit`."""
        self._compiled = None

    def _tell_unseen(self, probe: Probe) -> None:
        """Raise where a layer named one by one cannot be watched, or none can; else warn."""
        problem = (
            "These layers cannot be watched, since the model does not call them in training "
            f"or calls them inside a loop: {', '.join(probe.unseen)}."
        )
        named = asked_for(self.layers, layer_paths(self.model)) & set(probe.unseen)
        if named or not probe.taps:
            raise ValueError(f"{problem} Name others in layers. Received: layers={self.layers!r}")
        warnings.warn(problem, stacklevel=2)

    def _keep_references(self, sketches: Mapping[Tap, DistributionSketch]) -> None:
        if self.reference == "first":
            sketches = {**sketches, **self._references}
        self._references = dict(sketches)


def measure_all(sketch: DistributionSketch, reference: DistributionSketch) -> dict[str, float]:
    """Return every scalar of one record of one place, by the names in `kbn.tags`."""
    percentiles = sketch.quantile(np.array(tags.PERCENTILES) / 100)
    return {
        **dict(zip(tags.PERCENTILE_MEASURES, percentiles.tolist(), strict=True)),
        "mean": sketch.pooled_mean(),
        "std": sketch.pooled_std(),
        tags.WASSERSTEIN: measures.wasserstein_normalised(sketch, reference),
        tags.JEFFREYS: measures.jeffreys_gaussian(sketch, reference),
        "non_finite": sketch.non_finite_share,
        "zeros": sketch.zero_share,
    }


def _check_sites(sites: Any) -> tuple[str, ...]:
    sites = (sites,) if isinstance(sites, str) else sites
    if not isinstance(sites, list | tuple):
        raise TypeError(f"sites must be a list of {tags.SITES}. Received: sites={sites!r}")
    if not sites:
        raise ValueError(f"sites must name at least one of {tags.SITES}. Received: sites={sites!r}")
    return tuple(checks.one_of("sites", site, tags.SITES) for site in sites)
