"""kbn's backend for TensorFlow: the functions of `kbn.backend.interface.Backend`."""

from kbn.backend.tensorflow.arrays import numpy_of
from kbn.backend.tensorflow.channel_sums import sum_terms
from kbn.backend.tensorflow.compiling import (
    compile_for,
    compile_for_batches,
    current_trace,
    shared,
)
from kbn.backend.tensorflow.exporting import ExportedState
from kbn.backend.tensorflow.gradients import differentiable, value_and_gradients
from kbn.backend.tensorflow.normalization import kernel, normalize, normalize_batch
from kbn.backend.tensorflow.replicas import gather, is_chief, several_replicas, undisturbed
from kbn.backend.tensorflow.training import iterations

__all__ = [
    "ExportedState",
    "compile_for",
    "compile_for_batches",
    "current_trace",
    "differentiable",
    "gather",
    "is_chief",
    "iterations",
    "kernel",
    "normalize",
    "normalize_batch",
    "numpy_of",
    "several_replicas",
    "shared",
    "sum_terms",
    "undisturbed",
    "value_and_gradients",
]
